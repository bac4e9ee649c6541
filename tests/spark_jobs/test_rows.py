"""Row-wise stages on a cluster of two executor processes: the same bytes, and nothing made twice when one dies."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest

from pipeline import schemas
from pipeline.runner import make_plan, run_stage
from pipeline.settings import resolve
from pipeline.source import parse_source
from pipeline.stages import BY_NAME
from pipeline.storage import Outcome, Workspace, commit, write_shard

pytestmark = [pytest.mark.spark, pytest.mark.slow]

NUM_PROMPTS = 31
TOML = '[items]\npath = "items.csv"\n[events]\npath = "events.csv"\n'

MAKERS = '''
"""A maker that keeps rows by content and dies, once, before the rows it finds a file `worker-N` or `executor-N` for."""

import os
import signal
from pathlib import Path

import psutil
import pyarrow as pa

from pipeline import schemas
from pipeline.errors import StageError

HERE = Path(__file__).parent


def remember(batches, config, store):
    for batch in batches:
        rows = batch.to_pylist()
        known = store.get_many([row["entity_id"] for row in rows])
        for row in rows:
            key = row["entity_id"]
            if key not in known:
                die_if_told(key)
                with (HERE / "made.txt").open("a") as log:
                    log.write(key + " ")
                store.put(key, {"said": "about " + row["text"]})
        said = store.get_many([row["entity_id"] for row in rows])
        yield pa.RecordBatch.from_pylist([answer(row, said) for row in rows], schema=schemas.TEACHER_OUTPUTS)


def refuse(batches, config, store):
    raise StageError("the teacher has no words; give it some")
    yield


def die_if_told(key):
    if (HERE / f"worker-{key}").exists():
        (HERE / f"worker-{key}").unlink()
        os.kill(os.getpid(), signal.SIGKILL)
    if (HERE / f"executor-{key}").exists():
        (HERE / f"executor-{key}").unlink()
        executor = next(parent for parent in psutil.Process().parents() if parent.name() == "java")
        executor.kill()
        signal.pause()


def answer(row, said):
    values = dict.fromkeys(schemas.TEACHER_OUTPUTS.names, said[row["entity_id"]]["said"])
    values |= {"prompt_id": row["prompt_id"], "status": "ok", "reason": None}
    values |= {f.name: [row["text"]] for f in schemas.TEACHER_OUTPUTS if pa.types.is_list(f.type)}
    values |= {f.name: 1 for f in schemas.TEACHER_OUTPUTS if pa.types.is_integer(f.type)}
    return values
'''

ON_THE_CLUSTER = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from test_rows import plan_in, stage_of
from pipeline.errors import MsdError
from pipeline.runner import run_stage
from spark_jobs.rows import execute_rows
from spark_jobs.session import stop
try:
    run_stage(plan_in(Path(sys.argv[2])), stage_of(sys.argv[3]), execute_rows)
except MsdError as error:
    print(error)
    sys.exit(error.exit_code)
finally:
    stop()
"""


def plan_in(root, work="work"):
    source = parse_source("mine", TOML, root)
    return make_plan(Workspace(root / work), source, resolve("tiny", ("teacher_outputs.shard_rows=3",)))


def stage_of(maker):
    return replace(BY_NAME["teacher_outputs"], maker=f"cluster_makers:{maker}")


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A folder with a source, makers, and committed prompts in two work folders."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "cluster_makers.py").write_text(MAKERS)
    for name in ("items", "events"):
        (tmp_path / f"{name}.csv").write_text(f"{name}\n1\n")
    values = {"level": "item", "snapshot_at": None, "stratum": "s", "inclusion_probability": 1.0}
    rows = [
        values | dict.fromkeys(("prompt_id", "entity_id", "representative_id"), str(n)) | {"text": f"text {n}"}
        for n in range(NUM_PROMPTS)
    ]
    table = pa.Table.from_pylist([row | {"teacher_text": row["text"]} for row in rows], schema=schemas.PROMPTS)
    for work in ("work", "alone"):
        prompts = plan_in(tmp_path, work).dataset("prompts")
        prompts.folder.mkdir(parents=True)
        for shard, start in enumerate(range(0, NUM_PROMPTS, 12)):
            write_shard(prompts.folder / f"part-{shard:05d}.parquet", table.slice(start, 12))
        commit(prompts, Outcome(rows_in=NUM_PROMPTS, rows_ok=NUM_PROMPTS), {})
    return tmp_path


def run_on(master, root, maker):
    conf = "--conf spark.ui.enabled=false --conf spark.executor.memory=512m --conf spark.task.maxFailures=4"
    environment = {
        **os.environ,
        "PYSPARK_SUBMIT_ARGS": f"--master {master} {conf} pyspark-shell",
        "PYSPARK_PYTHON": sys.executable,
        "PYTHONPATH": str(root),
        "SPARK_WORKER_DIR": str(root / "workers"),
    }
    command = [sys.executable, "-c", ON_THE_CLUSTER, Path(__file__).parent, root, maker]
    return subprocess.run(command, env=environment, capture_output=True, text=True, cwd=root, timeout=300, check=False)


def test_executors_that_die_cost_nothing_that_was_made_and_the_bytes_are_those_of_one_process(root):
    (root / "worker-4").touch()
    (root / "executor-26").touch()
    result = run_on("local-cluster[2,1,512]", root, "remember")
    assert result.returncode == 0, result.stdout + result.stderr[-3000:]
    assert not list(root.glob("worker-*")) + list(root.glob("executor-*")), "nobody died"
    made = (root / "made.txt").read_text().split()
    assert sorted(made, key=int) == [str(number) for number in range(NUM_PROMPTS)]
    run_stage(plan_in(root, "alone"), stage_of("remember"))
    there, here = (plan_in(root, work).dataset("teacher_outputs") for work in ("work", "alone"))
    assert there.manifest["files"] == here.manifest["files"]
    assert there.manifest["rows_ok"] == NUM_PROMPTS
    store = root / "work" / "content_store" / "teacher_outputs"
    assert not list((store / "inbox").iterdir())


def test_what_a_maker_cannot_do_is_its_own_sentence(root):
    result = run_on("local[1]", root, "refuse")
    assert result.returncode == 1
    assert "teacher_outputs: Spark failed: the teacher has no words; give it some; what is made stays" in result.stdout
