"""A run killed in stage after stage, and run again, makes the same datasets as an undisturbed one."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from pipeline import runner, settings
from pipeline.source import load_source
from pipeline.stages import Kind, with_ancestors
from pipeline.storage import Workspace

pytestmark = [pytest.mark.spark, pytest.mark.redis, pytest.mark.feast, pytest.mark.slow]

KILLED_AFTER_SECONDS = {
    "items": 3.0,
    "interactions": 1.5,
    "student": 4.0,
    "user_vectors": 0.1,
    "user_features": 0.02,
    "publication": 1.5,
    "examples": 0.05,
    "ctr_model": 3.0,
    "report": 0.02,
}
LEAST_KILLS = 7
"""A quick stage may be committed before its kill comes, and then has no turn in the next run."""


def run_and_kill(work: Path, stage: str, after_seconds: float) -> bool:
    """Starts the flow, kills the whole session some time after it says it is at the stage; False where it never was."""
    command = [
        sys.executable,
        "-m",
        "pipeline",
        "run",
        "report",
        "--source",
        "tiny-world",
        "--preset",
        "tiny-world",
        "--work",
        str(work),
    ]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    assert process.stderr is not None
    deadline = threading.Timer(600, lambda: os.killpg(process.pid, signal.SIGKILL))
    deadline.start()
    is_reached = False
    for line in process.stderr:
        if f"] {stage}:" in line:
            is_reached = True
            time.sleep(after_seconds)
            break
    deadline.cancel()
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    process.stderr.close()
    return is_reached


def test_killed_runs_end_in_the_same_datasets(tiny_world, tmp_path):
    kills = [run_and_kill(tmp_path, stage, seconds) for stage, seconds in KILLED_AFTER_SECONDS.items()]
    assert sum(kills) >= LEAST_KILLS
    command = [sys.executable, "-m", "pipeline", "run", "report", "--work", str(tmp_path)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
    assert ended.returncode == 0, ended.stderr

    source, chosen = load_source("tiny-world"), settings.resolve("tiny-world")
    undisturbed = runner.make_plan(Workspace(tiny_world), source, chosen)
    disturbed = runner.make_plan(Workspace(tmp_path), source, chosen)
    for stage in with_ancestors(["report"]):
        one, other = undisturbed.dataset(stage.name), disturbed.dataset(stage.name)
        assert one.manifest["rows_ok"] == other.manifest["rows_ok"], stage.name
        assert one.manifest["files"].keys() == other.manifest["files"].keys(), stage.name
        if stage.kind is not Kind.ARTIFACT:
            # To the last bit, vectors too.
            assert one.table().equals(other.table()), stage.name
    assert undisturbed.dataset("report").details["digest"] == disturbed.dataset("report").details["digest"]
