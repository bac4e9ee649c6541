"""A comparison of tabular arms as a user runs it: no prompt, teacher, student, vector or publication is made."""

import json

import pytest
from submitted_jobs import SmallWorld

from pipeline.stages import READ_FOR

pytestmark = [pytest.mark.spark, pytest.mark.slow]
SETTINGS = ('ctr_model.arms=["deepfm", "din"]', "ctr_model.seeds=[1]", "report.bootstrap_rounds=40")


def test_tabular_arms_are_compared_without_a_language_model(tmp_path, msd):
    SmallWorld(tmp_path)
    work = tmp_path / "work"
    settings = [word for setting in SETTINGS for word in ("--set", setting)]
    ended = msd("run", "report", "--source", str(tmp_path / "mine.toml"), "--preset", "tiny", *settings, work=work)
    assert ended.returncode == 0, ended.stderr
    made = {path.parent.parent.name for path in work.glob("*/*/manifest.json")}
    assert made.isdisjoint(READ_FOR["student"] | READ_FOR["tuned"] | READ_FOR["raw_text"]), made

    report = json.loads((work / "report" / "report.json").read_text())
    assert {arm["name"] for arm in report["arms"]} == {"deepfm", "din"}
    assert report["audit"]["checked"] == report["split"]["train"] + report["split"]["valid"] + report["split"]["test"]
    assert not report["audit"]["leaks"]
    assert [report[part] for part in ("teacher", "distillation", "tuning", "embedding", "publish")] == [{}] * 5
    page = (work / "report" / "report.html").read_text()
    assert "tabular arms side by side" in page
    assert "The teacher read" not in page

    refused = msd("run", "tuned_student", work=work)
    assert refused.returncode == 1
    assert "none of the arms does" in refused.stderr
