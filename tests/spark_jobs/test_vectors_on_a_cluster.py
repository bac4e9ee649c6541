"""Vectors made by spark-submit on a real standalone cluster: a killed executor costs what it had under way."""

import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from standalone_cluster import standalone_cluster
from vector_world import commit_inputs, long_texts, plan_in

from pipeline.runner import run
from spark_jobs import item_vectors

pytestmark = [pytest.mark.spark, pytest.mark.slow]

NUM_ITEMS, SHARD_ROWS = 480, 8
SETTINGS = (f"item_vectors.shard_rows={SHARD_ROWS}", "item_vectors.dtype=float32", "item_vectors.engine=plain")
GPUS = """#!/bin/sh
echo '{"name": "gpu", "addresses": ["5"]}'
"""
SEEN = '''
"""Says which GPU a task was shown, when it was asked to read its rows."""

import os

import pyarrow as pa

from pipeline import schemas


def embed_items(batches, config, **inputs):
    for batch in batches:
        shown = os.environ["CUDA_VISIBLE_DEVICES"]
        rows = [{"item_id": shown, "vector": [], "space_id": "", "content_hash": "", "available_at": 0}]
        yield pa.RecordBatch.from_pylist(rows * batch.num_rows, schema=schemas.ITEM_VECTORS)
'''


RUN_SEEN = """
import sys
from dataclasses import replace
from pathlib import Path
sys.path[:0] = [str(Path(__file__).parent), sys.argv[2]]
from vector_world import plan_in
from pipeline.runner import run_stage
from pipeline.stages import BY_NAME
from spark_jobs.rows import execute_rows
from spark_jobs.session import stop
stage = replace(BY_NAME["item_vectors"], maker="seen_gpus:embed_items")
run_stage(plan_in(Path(sys.argv[1]), work="seen"), stage, execute_rows)
stop()
"""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cluster")
    script = folder / "gpus.sh"
    script.write_text(GPUS)
    script.chmod(0o755)
    gpus = f"-Dspark.worker.resource.gpu.amount=1 -Dspark.worker.resource.gpu.discoveryScript={script}"
    with standalone_cluster(folder, options=gpus) as running:
        yield running


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A source, and three work folders in which the inputs are made."""
    folder = tmp_path_factory.mktemp("root")
    commit_inputs(plan_in(folder, *SETTINGS), long_texts(NUM_ITEMS), num_layers=8)
    for work in ("alone", "seen"):
        shutil.copytree(folder / "work", folder / work)
    return folder


def test_an_executor_that_is_killed_costs_its_share_not_the_job(cluster, root):
    plan, alone = (plan_in(root, *SETTINGS, work=work) for work in ("work", "alone"))
    output = plan.dataset("item_vectors")
    overrides = [word for setting in SETTINGS for word in ("--set", setting)]
    arguments = ["--source", root / "mine.toml", "--preset", "tiny", "--work", root / "work", *overrides]
    driver = cluster.submit(Path(item_vectors.__file__), *map(str, arguments))
    try:
        made = killed_in_the_middle(cluster, output, driver)
        assert driver.wait(300) == 0, (cluster.folder / "driver.log").read_text()[-3000:]
    finally:
        driver.kill()
    assert 0 < made < NUM_ITEMS // SHARD_ROWS, "the executor was killed when all was done"
    manifest = output.manifest
    assert (manifest["rows_in"], manifest["rows_ok"]) == (NUM_ITEMS, NUM_ITEMS)
    assert manifest["details"]["texts"] == NUM_ITEMS

    run(alone, ["item_vectors"])
    there, here = (each.dataset("item_vectors").table() for each in (plan, alone))
    assert there.drop(["vector"]).equals(here.drop(["vector"]))
    made_there, made_here = (np.stack(table.column("vector").to_pylist()) for table in (there, here))
    np.testing.assert_allclose(made_there, made_here, atol=1e-5)


def test_a_task_sees_the_gpu_that_spark_gave_it(cluster, root, tmp_path):
    (tmp_path / "seen_gpus.py").write_text(SEEN)
    (tmp_path / "run_seen.py").write_text(RUN_SEEN)
    asked = {f"spark.{who}.resource.gpu.amount": "1" for who in ("executor", "task")}
    asked |= {"spark.executorEnv.PYTHONPATH": str(tmp_path)}
    driver = cluster.submit(
        tmp_path / "run_seen.py", str(root), str(Path(__file__).parents[1] / "support"), confs=asked
    )
    try:
        assert driver.wait(240) == 0, (cluster.folder / "driver.log").read_text()[-3000:]
    finally:
        driver.kill()
    assert set(plan_in(root, work="seen").dataset("item_vectors").table(["item_id"]).column("item_id").to_pylist()) == {
        "5"
    }


def killed_in_the_middle(cluster, output, driver):
    """Kills one executor when the first shards lie there; returns how many did."""
    end = time.monotonic() + 240
    while len(output.shards()) < 4:
        assert driver.poll() is None, (cluster.folder / "driver.log").read_text()[-3000:]
        assert time.monotonic() < end, "no shard was made"
        time.sleep(0.02)
    cluster.executors()[0].kill()
    return len(output.shards())
