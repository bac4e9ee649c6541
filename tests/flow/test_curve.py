"""msd curve as a user runs it: on the tiny world, where more of the teacher's rows must be worth something."""

import json

import pytest

pytestmark = [
    pytest.mark.spark,
    pytest.mark.redis,
    pytest.mark.feast,
    pytest.mark.slow,
    pytest.mark.xdist_group("flow"),
]
SMALL = ("--shares", "0.1,1.0", "--set", "ctr_model.seeds=[1]", "--set", "ctr_model.max_epochs=2")


def test_more_rows_make_a_better_student_and_a_better_click_model(planted, msd):
    students = {path.name for path in (planted.work / "student").iterdir() if path.is_dir()}
    ended = msd("curve", *SMALL, work=planted.work)
    assert ended.returncode == 0, ended.stderr
    few, every = json.loads((planted.work / "curve" / "curve.json").read_text())["points"]
    assert few["train_rows"] < every["train_rows"]
    assert few["f1_micro"] < every["f1_micro"]
    assert few["arms"]["msd_frozen"]["auc"] < every["arms"]["msd_frozen"]["auc"]
    assert every["arms"]["msd_frozen"]["delta_auc_vs"]["raw_text"][0] > 0
    made = {path.name for path in (planted.work / "student").iterdir() if path.is_dir()} - students
    assert len(made) == 1, "the student of all rows is that of the ordinary run"
    assert "msd_frozen" in ended.stdout
    assert (planted.work / "curve" / "curve.png").stat().st_size > 10_000

    again = msd("curve", *SMALL, work=planted.work)
    assert again.stdout == ended.stdout
    assert "[1/" not in again.stderr, "nothing is made twice"
