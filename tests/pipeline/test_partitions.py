"""A day's key means the datasets that were recorded when it was opened, and goes on meaning them."""

import json
from concurrent.futures import ThreadPoolExecutor

import pytest

from pipeline import runner
from pipeline.call import open_day, plan_of
from pipeline.errors import StageError, UsageError
from pipeline.partitions import KNOWLEDGE, make_knowledge, opened_days, parse_date, read_partition
from pipeline.stages import BY_NAME
from pipeline.storage import Outcome, Workspace, commit, write_once

DAY, NEXT, LATER = "2026-11-20", "2026-11-21", "2026-11-24"
SOURCE = """
[items]
path = "items.csv"
[events]
path = "events.csv"
"""


@pytest.fixture
def shop(tmp_path):
    (tmp_path / "items.csv").write_text("item_id,title\n1,a film\n")
    (tmp_path / "events.csv").write_text("user_id,item_id,timestamp\nx,1,1700000000\n")
    (tmp_path / "shop.toml").write_text(SOURCE)
    return tmp_path


def opened(shop, day=DAY, again=False, **changed):
    call = {"source": str(shop / "shop.toml"), "preset": "tiny", "overrides": [], "refresh_days": 1} | changed
    return open_day(shop / "work", day, call, again=again)


def dated(shop, day=DAY):
    return plan_of(shop / "work", None, None, None, day)


def committed(plan, name):
    dataset = plan.dataset(name)
    dataset.folder.mkdir(parents=True, exist_ok=True)
    commit(dataset, Outcome(), {"seconds": 0.0, "created_at": "now"})


@pytest.mark.parametrize("wrong", [None, "", "None", "2026-1-2", "20261120", "2026-02-30", "2026-11-20T00", "../x"])
def test_what_is_no_day_is_refused(wrong):
    with pytest.raises(UsageError, match="a day like 2026-11-20 is wanted"):
        parse_date(wrong)


def test_opening_again_changes_nothing(shop):
    first = opened(shop)
    assert opened(shop) == first
    assert opened_days(Workspace(shop / "work")) == [DAY]
    assert dated(shop).fingerprints == first.fingerprints


def test_another_call_is_refused_unless_asked_for_again(shop):
    before = opened(shop)
    with pytest.raises(UsageError, match="opened with another preset"):
        opened(shop, preset="small")
    assert opened(shop, preset="small", again=True).preset == "small"
    assert dated(shop).fingerprints["prompts"] != before.fingerprints["prompts"]


def test_a_command_that_says_otherwise_than_the_record_is_refused(shop):
    opened(shop)
    with pytest.raises(UsageError, match="opened with the preset tiny, not small"):
        plan_of(shop / "work", None, "small", None, DAY)


def test_an_unopened_day_names_the_command(shop):
    with pytest.raises(StageError, match=f"msd open --date {DAY}"):
        dated(shop)


def test_every_day_has_datasets_of_its_own_but_for_what_knows_no_time(shop):
    first, second = opened(shop), opened(shop, NEXT)
    assert first.fingerprints["items"] == second.fingerprints["items"]
    assert first.fingerprints["interactions"] != second.fingerprints["interactions"]
    assert first.fingerprints["student"] != second.fingerprints["student"]


def test_a_day_goes_on_with_the_teacher_and_student_of_one_that_is_young_enough(shop):
    first, second, later = (opened(shop, day, refresh_days=3) for day in (DAY, NEXT, LATER))
    assert (second.knowledge_date, later.knowledge_date) == (DAY, LATER)
    for name in KNOWLEDGE:
        assert second.fingerprints[name] == first.fingerprints[name]
        assert later.fingerprints[name] != first.fingerprints[name]
    assert second.fingerprints["histories"] != first.fingerprints["histories"]


def test_a_student_of_an_earlier_day_is_made_there(shop):
    opened(shop, refresh_days=2)
    opened(shop, NEXT, refresh_days=2)
    with pytest.raises(StageError, match=f"goes on with that of {DAY}.*msd run student --date {DAY}"):
        runner.run_stage(dated(shop, NEXT), BY_NAME["student"])
    committed(dated(shop), "student")
    assert dated(shop, NEXT).dataset("student").manifest is not None


def test_files_that_changed_are_not_mixed_into_a_day(shop):
    opened(shop)
    committed(dated(shop), "items")
    with (shop / "events.csv").open("a") as file:
        file.write("x,1,1700000001\n")
    runner.run_stage(dated(shop), BY_NAME["items"])
    with pytest.raises(StageError, match=rf"changed since {DAY} was opened.*--again"):
        runner.run_stage(dated(shop), BY_NAME["interactions"])
    before = read_partition(Workspace(shop / "work"), DAY)
    after = opened(shop, again=True)
    assert before.fingerprints["items"] == after.fingerprints["items"]
    assert before.fingerprints["interactions"] != after.fingerprints["interactions"]


def test_only_makes_nothing_that_was_not_named(shop):
    opened(shop)
    with pytest.raises(StageError, match=rf"item_stats needs items, interactions first; run: .* --date {DAY}"):
        runner.run(dated(shop), ["item_stats"], only=True)
    assert not (shop / "work" / "items").exists()


def test_the_day_stands_in_the_paths_of_a_source(shop):
    (shop / DAY).mkdir()
    (shop / "items.csv").rename(shop / DAY / "items.csv")
    (shop / "shop.toml").write_text(SOURCE.replace("items.csv", "{date}/items.csv"))
    opened(shop)
    assert dated(shop).source.items.files.all_paths == (shop / DAY / "items.csv",)
    with pytest.raises(UsageError, match="does not exist"):
        opened(shop, NEXT)
    with pytest.raises(UsageError, match="say which with --date"):
        plan_of(shop / "work", str(shop / "shop.toml"), "tiny", [])


def test_of_two_that_open_a_day_at_once_one_is_recorded(shop):
    with ThreadPoolExecutor(8) as threads:
        days = list(threads.map(lambda _: opened(shop), range(16)))
    assert {json.dumps(dict(day.fingerprints)) for day in days} == {json.dumps(dict(days[0].fingerprints))}
    assert len({day.opened_at for day in days}) == 1


def test_of_many_writers_one_writes(tmp_path):
    with ThreadPoolExecutor(8) as threads:
        won = list(threads.map(lambda n: write_once(tmp_path / "x", str(n).encode()), range(32)))
    assert won.count(True) == 1
    assert (tmp_path / "x").read_text() == str(won.index(True))
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_nothing_is_made_for_a_day_that_has_all_it_goes_on_with(shop):
    opened(shop, refresh_days=2)
    opened(shop, NEXT, refresh_days=2)
    assert make_knowledge(dated(shop), ["report"]) == []
    assert make_knowledge(dated(shop, NEXT), ["histories"]) == []
    for name in KNOWLEDGE:
        committed(dated(shop), name)
    assert make_knowledge(dated(shop, NEXT), ["report"]) == []
