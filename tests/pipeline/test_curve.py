"""The curve's plans: what a point changes, and what all points share."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import settings
from pipeline.curve import ARMS, DEFAULT_SHARES, Variant, parse_shares, variant_plan
from pipeline.errors import UsageError
from pipeline.runner import make_plan
from pipeline.source import parse_source
from pipeline.stages import BY_NAME, with_ancestors
from pipeline.storage import Workspace

AFTER_THE_STUDENT = {name for name in BY_NAME if "student" in {stage.name for stage in with_ancestors([name])}}


@pytest.fixture
def plan(tmp_path):
    (tmp_path / "items.csv").write_text("item_id,title\n1,one\n")
    (tmp_path / "events.csv").write_text("user_id,item_id,timestamp,label\n1,1,1700000000,1\n")
    text = '[items]\npath = "items.csv"\n[events]\npath = "events.csv"\ntime = "timestamp"\nlabel = "label"\n'
    overrides = ["student.shuffle_phrases=2"]
    source = parse_source("mine", text, Path(tmp_path))
    return make_plan(Workspace(tmp_path / "work"), source, settings.resolve("tiny", overrides))


def changed(one, other):
    return {name for name in BY_NAME if one.fingerprints[name] != other.fingerprints[name]}


def test_points_share_everything_above_the_student(plan):
    few, all_rows = (variant_plan(plan, Variant(share=share, augmented=False), pairs=False) for share in (0.1, 1.0))
    assert changed(few, all_rows) == AFTER_THE_STUDENT
    assert all_rows.fingerprints["student"] == plan.fingerprints["student"], "the call's own student is a point"
    for one in (few, all_rows):
        assert one.settings["ctr_model"].arms == ARMS
        assert not one.settings["publication"].online
        assert one.settings["tuned_student"].max_steps == 0


def test_pairs_differ_by_the_augmentation_alone(plan):
    plain, augmented = (
        variant_plan(plan, Variant(share=0.5, augmented=chosen), pairs=True) for chosen in (False, True)
    )
    assert (plain.settings["student"].shuffle_phrases, plain.settings["student"].substitute_words) == (0, 0)
    assert (augmented.settings["student"].shuffle_phrases, augmented.settings["student"].substitute_words) == (2, 1)
    assert changed(plain, augmented) == AFTER_THE_STUDENT


@given(st.lists(st.floats(0.001, 1), min_size=1, max_size=5))
def test_shares_come_ascending_and_once(shares):
    assert parse_shares(",".join(str(share) for share in [*shares, *shares])) == sorted(set(shares))


def test_the_default_shares_are_shares():
    assert parse_shares(DEFAULT_SHARES) == [0.1, 0.25, 0.5, 1.0]


@pytest.mark.parametrize("text", ["", "0", "0.5,1.1", "half", "-1", "nan", "0.5;1"])
def test_what_is_no_share_is_refused(text):
    with pytest.raises(UsageError, match="--shares"):
        parse_shares(text)
