"""Committing tables, and what ends a run: a kill, a failed Java, spark-submit without its inputs."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.errors import ServiceError
from pipeline.runner import run
from spark_jobs import session as sessions

ROOT = Path(__file__).parents[2]
TOML = """
[items]
path = "items.csv"
[events]
path = "events.csv"
"""


@pytest.fixture
def log(world):
    world.write("items.csv", "item_id,title\n" + "".join(f"i{n},Item {n}\n" for n in range(9)))
    world.write("events.csv", "user_id,item_id\n" + "".join(f"u{n % 5},i{n % 9}\n" for n in range(50)))
    return world


@pytest.mark.spark
def test_what_a_killed_run_left_behind_does_not_show(log):
    plan = log.plan(TOML)
    folder = plan.dataset("items").folder
    (folder / "_writing").mkdir(parents=True)
    (folder / "_writing" / "part-00000-half.parquet").write_bytes(b"half")
    (folder / "part-00007.parquet").write_bytes(b"of another run")
    (folder / "rejected").mkdir()
    (folder / "rejected" / "part-00000.parquet").write_bytes(b"of another run")
    run(plan, ["items"])
    assert sorted(path.name for path in folder.iterdir()) == ["manifest.json", "part-00000.parquet"]
    assert plan.dataset("items").table().num_rows == 9
    assert run(plan, ["items"]) == []


@pytest.mark.spark
def test_a_work_folder_of_any_name_does(log):
    plan = log.plan(TOML, work="my wörk [1] {a} *#?%20")
    run(plan, ["users"])
    assert plan.dataset("users").table().num_rows == 5


def submit(stage, world):
    """spark-submit prints what its Python process says on stdout."""
    (world.folder / "source.toml").write_text(TOML)
    binaries = Path(sys.executable).parent
    command = [binaries / "spark-submit", "--master", "local[2]", "--conf", "spark.ui.enabled=false"]
    command += [ROOT / "spark_jobs" / f"{stage}.py", "--source", world.folder / "source.toml", "--preset", "tiny"]
    command += ["--work", world.folder / "work"]
    environment = {**os.environ, "PATH": f"{binaries}:{os.environ['PATH']}", "SPARK_LOCAL_IP": "127.0.0.1"}
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, cwd=world.folder, timeout=300, check=False
    )


@pytest.mark.spark
@pytest.mark.slow
def test_spark_submit_makes_the_same_table_and_asks_for_missing_inputs(log):
    early = submit("interactions", log)
    assert early.returncode == 1
    assert "interactions: needs items" in early.stdout
    assert "Traceback" not in early.stdout + early.stderr
    result = submit("items", log)
    assert result.returncode == 0, result.stderr[-2000:]
    assert log.plan(TOML).dataset("items").table().num_rows == 9
    assert not (log.folder / "spark-warehouse").exists()


def test_a_java_that_is_not_there_or_does_not_run_is_a_sentence(tmp_path, monkeypatch):
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    with pytest.raises(ServiceError, match="no java was found on JAVA_HOME"):
        sessions.check_java()
    (tmp_path / "bin").mkdir()
    java = tmp_path / "bin" / "java"
    java.write_text("#!/bin/sh\necho 'no such machine' >&2\nexit 3\n")
    java.chmod(0o755)
    with pytest.raises(ServiceError, match=r"does not run \(no such machine\)"):
        sessions.check_java()
