"""The plan of msd ablate: one ctr_model under other arms, everything else shared."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import settings
from pipeline.ablation import DEFAULT_TABLES, MASKS, TOP_KS, ablation_plan, parse_numbers, parse_tables, table_arms
from pipeline.errors import UsageError
from pipeline.runner import make_plan
from pipeline.source import parse_source
from pipeline.stages import BY_NAME
from pipeline.storage import Workspace


@pytest.fixture
def plan(tmp_path):
    (tmp_path / "items.csv").write_text("item_id,title\n1,one\n")
    (tmp_path / "events.csv").write_text("user_id,item_id,timestamp,label\n1,1,1700000000,1\n")
    text = '[items]\npath = "items.csv"\n[events]\npath = "events.csv"\ntime = "timestamp"\nlabel = "label"\n'
    source = parse_source("mine", text, Path(tmp_path))
    return make_plan(Workspace(tmp_path / "work"), source, settings.resolve("tiny", []))


def test_only_the_click_models_differ_from_the_ordinary_run(plan):
    chosen = ablation_plan(plan, (2, 3), (7, 8))
    differ = {name for name in BY_NAME if chosen.fingerprints[name] != plan.fingerprints[name]}
    assert differ == {"ctr_model", "report"}
    assert chosen.settings["ctr_model"].seeds == (7, 8)
    assert ablation_plan(plan, (2, 3), ()).settings["ctr_model"].seeds == plan.settings["ctr_model"].seeds


def test_both_tables_share_their_arms_and_their_order_is_nothing(plan):
    both = ablation_plan(plan, (3, 2), ())
    assert both.fingerprints == ablation_plan(plan, (2, 3), ()).fingerprints
    arms = both.settings["ctr_model"].arms
    assert len(set(arms)) == len(arms)
    for number in (2, 3):
        assert set(table_arms(number, plan.settings["ctr_model"])) <= set(arms)
    assert {"deepfm", "din"} <= set(ablation_plan(plan, (3,), ()).settings["ctr_model"].arms)


def test_what_msd_is_anyway_is_not_trained_twice(plan):
    trained = plan.settings["ctr_model"]
    arms = table_arms(3, trained)
    assert len(arms) == 4 + len(MASKS) - 1 + len(TOP_KS) - 1
    assert f"msd_mask_{trained.mask}" not in arms
    assert f"msd_k_{trained.top_k}" not in arms


def test_every_arm_of_the_tables_is_declared_as_the_table_says(plan):
    from msd_models.arms_file import read_arms

    arms, trained = read_arms(), plan.settings["ctr_model"]
    for number in (2, 3):
        assert set(table_arms(number, trained)) <= arms.keys()
    whole = arms["msd"]
    for name in table_arms(3, trained)[1:]:
        own = arms[name]
        changed = {
            key for key in ("vectors", "reads_user", "fuses_history") if getattr(own, key) != getattr(whole, key)
        }
        assert len(changed) + len(own.settings) == 1, f"{name} differs from msd in one thing"
    for mask in MASKS:
        assert arms[f"msd_mask_{mask}"].settings == {"mask": mask}
    for top_k in TOP_KS:
        assert arms[f"msd_k_{top_k}"].settings == {"top_k": top_k}


@given(st.lists(st.integers(0, 99), min_size=1, max_size=6))
def test_numbers_come_once_in_their_order(numbers):
    said = ",".join(map(str, [*numbers, *numbers]))
    assert parse_numbers(said, "--seeds", "1,2") == tuple(dict.fromkeys(numbers))


def test_the_default_is_both_tables():
    assert parse_tables(DEFAULT_TABLES) == (2, 3)


@pytest.mark.parametrize("text", ["", "4", "2,three", "2;3", "-2", "1"])
def test_other_tables_are_refused(text):
    with pytest.raises(UsageError, match="--tables"):
        parse_tables(text)
