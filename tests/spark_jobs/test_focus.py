"""The second round: weak strata get more rows, no stratum more than it has, and the first round's rows all stay."""

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config import Prompts
from pipeline.errors import ConfigError
from spark_jobs.focus import second_round, share_out
from spark_jobs.sampling import Strata

from .test_prompts import SETTINGS, TOML, log  # noqa: F401


def strata(rows, drawn):
    return Strata(of_category={name: name for name in rows}, rows=rows, drawn=drawn)


FIRST = {
    "item": strata({"Drama": 400, "Comedy": 400, "Noir": 100}, {"Drama": 10, "Comedy": 10, "Noir": 5}),
    "user": strata({"3-9 events": 100}, {"3-9 events": 4}),
}


@pytest.fixture
def settings(tmp_path):
    path = tmp_path / "strata.json"
    measured = {"item": {"Drama": {"f1": 0.2, "rows": 5}, "Comedy": {"f1": 0.6, "rows": 4}}, "user": {}}
    path.write_text(json.dumps(measured))
    return Prompts(focus=str(path), focus_rows=36)


def test_rows_follow_the_power_of_the_size_and_the_missing_f1(settings):
    """N^a (1 − F1): Drama 20 · .8 = 16, Comedy 20 · .4 = 8, Noir and users, never measured, 10 · .6 = 6 each."""
    second = second_round(FIRST, settings)
    assert second["item"].drawn == {"Drama": 26, "Comedy": 18, "Noir": 11}
    assert second["user"].drawn == {"3-9 events": 10}
    assert second["item"].rows == FIRST["item"].rows


def test_without_a_focus_nothing_changes():
    assert second_round(FIRST, Prompts()) == FIRST


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "cannot be read so"),
        ("[]", "cannot be read so"),
        ('{"item": {"Drama": 0.3}}', "cannot be read so"),
        ('{"item": {"Drama": {"rows": 3}}}', "cannot be read so"),
        ('{"item": {"Drama": {"f1": "good"}}}', "cannot be read so"),
        ('{"item": {"Drama": {"f1": 1.5}}}', "an f1 of 1.5"),
        ('{"item": {"Drama": {"f1": NaN}}}', "an f1 of nan"),
        ('{"item": {}, "user": {"3-9 events": {"f1": null, "rows": 0}}}', "holds no f1"),
    ],
)
def test_a_file_that_is_no_strata_json_is_a_sentence(settings, tmp_path, content, message):
    (tmp_path / "strata.json").write_text(content)
    with pytest.raises(ConfigError, match=message) as error:
        second_round(FIRST, settings)
    assert "msd run student" in str(error.value)


def test_a_file_that_is_not_there_and_half_a_setting_are_sentences(settings):
    with pytest.raises(ConfigError, match=r"there is no file .* msd run student"):
        second_round(FIRST, replace(settings, focus=settings.focus + "x"))
    with pytest.raises(ConfigError, match="wants both"):
        second_round(FIRST, replace(settings, focus_rows=0))
    with pytest.raises(ConfigError, match="wants both"):
        second_round(FIRST, replace(settings, focus=""))


@given(
    st.integers(0, 500),
    st.lists(st.tuples(st.floats(0, 100, allow_subnormal=False), st.integers(0, 60)), min_size=1, max_size=12),
)
def test_whole_rows_fit_and_none_is_lost(num_rows, listed):
    weights = {("item", str(place)): weight for place, (weight, _) in enumerate(listed)}
    room = {("item", str(place)): rows for place, (_, rows) in enumerate(listed)}
    shared = share_out(num_rows, weights, room)
    assert all(0 <= shared[key] <= room[key] for key in room)
    assert all(shared[key] == 0 for key in room if weights[key] == 0)
    assert sum(shared.values()) == min(num_rows, sum(room[key] for key in room if weights[key] > 0))


@pytest.mark.spark
def test_the_second_rounds_prompts_hold_the_first_rounds(log, tmp_path):  # noqa: F811
    first = log.make(TOML, "prompts", settings=SETTINGS)["prompts"].to_pylist()
    path = tmp_path / "strata.json"
    path.write_text(json.dumps({"item": {"a": {"f1": 0.0, "rows": 3}, "b": {"f1": 1.0, "rows": 3}}, "user": {}}))
    more = (*SETTINGS, f"prompts.focus={path}", "prompts.focus_rows=8")
    second = {row["prompt_id"]: row for row in log.make(TOML, "prompts", settings=more)["prompts"].to_pylist()}
    assert {row["prompt_id"] for row in first} < set(second)
    assert len(second) == len(first) + 8
    assert all(second[row["prompt_id"]]["text"] == row["text"] for row in first)
    counted = [sum(row["stratum"] == "b" for row in rows) for rows in (first, second.values())]
    assert counted[0] == counted[1]
