"""Shards made by worker processes: the same bytes as in one, and what is told when one of them fails or is killed."""

import json
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest
from row_makers import plan_in, stage_of

from pipeline.errors import StageError
from pipeline.runner import run_stage

RUN = """
import sys
from pathlib import Path
sys.path[:0] = sys.argv[1:3]
from row_makers import plan_in, stage_of
from pipeline.runner import run_stage
if __name__ == "__main__":
    run_stage(plan_in(Path(sys.argv[2]), processes=2), stage_of("linger"))
"""


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(os.path.dirname(__file__) + "/../support")
    return tmp_path


def files_of(plan):
    return plan.dataset("item_vectors").manifest["files"]


@pytest.mark.parametrize(("processes", "shard_rows"), [(3, 2), (50, 5)])
def test_workers_make_the_bytes_of_one_process(root, processes, shard_rows):
    alone = plan_in(root, work="alone", shard_rows=shard_rows)
    run_stage(alone, stage_of("answer"))
    together = plan_in(root, processes=processes, shard_rows=shard_rows)
    run_stage(together, stage_of("answer"))
    assert files_of(together) == files_of(alone)
    manifest = together.dataset("item_vectors").manifest
    assert manifest["details"]["processes"] == len(manifest["files"]), "each shard counts its worker's own facts"


def test_a_worker_sees_its_part_of_the_threads(root, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "8")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,GPU-4")
    plan = plan_in(root, processes=2)
    run_stage(plan, stage_of("show_resources"))
    seen = plan.dataset("item_vectors").table(["space_id"]).column("space_id").to_pylist()
    assert set(seen[:5]) == {"4 3"}
    assert set(seen[-5:]) == {"4 GPU-4"}
    assert os.environ["OMP_NUM_THREADS"] == "8"


def test_a_workers_lines_are_the_runs(root, monkeypatch, capfd):
    monkeypatch.setenv("MSD_LOG", "json")
    monkeypatch.setenv("MSD_RUN_ID", "dag/run/task/1")
    plan = plan_in(root, processes=2)
    run_stage(plan, stage_of("speak"))
    lines = [json.loads(line) for line in capfd.readouterr().err.splitlines()]
    facts = {"run": "dag/run/task/1", "stage": "item_vectors", "fingerprint": plan.dataset("item_vectors").fingerprint}
    assert all(facts.items() <= line.items() for line in lines)
    said = [line for line in lines if line["message"] == "a batch comes"]
    assert {line["worker"] for line in said} == {f"item_vectors worker {number} of 2" for number in (1, 2)}
    assert len(said) == 7
    assert {line["shard"] for line in lines if line["message"] == "shard written"} == set(range(7))
    (summary,) = [line for line in lines if "rows_ok" in line]
    assert summary["rows_ok"] == 13


def test_a_stage_leaves_its_figures_and_its_failures(root, tmp_path, monkeypatch):
    monkeypatch.setenv("MSD_METRICS_DIR", str(tmp_path / "prom"))
    plan = plan_in(root)
    with pytest.raises(StageError):
        run_stage(plan, stage_of("refuse"))
    assert [path.name for path in (tmp_path / "prom").iterdir()] == ["msd-msd-mine-item_vectors.failures.prom"]
    run_stage(plan, stage_of("answer"))
    told = (tmp_path / "prom" / "msd-msd-mine-item_vectors.prom").read_text()
    assert 'msd_stage_rows{outcome="ok",project="msd",source="mine",stage="item_vectors"} 13.0' in told


def test_what_a_maker_cannot_do_is_its_own_sentence(root):
    with pytest.raises(StageError, match="row 7 cannot be read; leave it out"):
        run_stage(plan_in(root, processes=2), stage_of("refuse"))


def test_a_bug_in_a_worker_ends_the_stage(root, capfd):
    with pytest.raises(StageError, match=r"item_vectors worker [12] of 2 ended with exit code 1"):
        run_stage(plan_in(root, processes=2), stage_of("crash"))
    assert "ZeroDivisionError" in capfd.readouterr().err


def test_a_killed_worker_is_told_and_the_next_run_goes_on(root):
    plan = plan_in(root, processes=2)
    (root / "kill-at-5").touch()
    with pytest.raises(StageError, match=r"worker 2 of 2 was killed by signal 9.* the same command goes on there"):
        run_stage(plan, stage_of("die_once"))
    assert not (root / "kill-at-5").exists()
    before = {path.name: path.stat().st_mtime_ns for path in plan.dataset("item_vectors").shards()}
    run_stage(plan, stage_of("die_once"))
    after = {path.name: path.stat().st_mtime_ns for path in plan.dataset("item_vectors").shards()}
    assert before.items() <= after.items()
    alone = plan_in(root, work="alone")
    run_stage(alone, stage_of("answer"))
    assert files_of(plan) == files_of(alone)


def test_no_worker_outlives_its_parent(root):
    plan_in(root, processes=2)
    support = os.path.dirname(__file__) + "/../support"
    with subprocess.Popen([sys.executable, "-c", RUN, support, root]) as parent:
        end = time.monotonic() + 60
        while len(list(root.glob("lingering-*"))) < 2:
            assert time.monotonic() < end
            assert parent.poll() is None
            time.sleep(0.05)
        workers = [int(path.name.removeprefix("lingering-")) for path in root.glob("lingering-*")]
        assert all(psutil.pid_exists(pid) for pid in workers)
        parent.send_signal(signal.SIGKILL)
    _, alive = psutil.wait_procs([psutil.Process(pid) for pid in workers if psutil.pid_exists(pid)], timeout=20)
    assert not alive
