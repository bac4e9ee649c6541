"""The join on Spark against a plain search, and the dataset it commits against the one made without Spark."""

import os
import random
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pyarrow as pa
import pytest
from as_of_world import AsOfWorld, Label, Row, answers, label_table, wanted_of, worlds
from hypothesis import HealthCheck, given, settings

from pipeline.runner import make_job, run, run_stage
from pipeline.stages import BY_NAME
from pipeline.storage import Outcome, commit, write_shard
from spark_jobs import examples

pytestmark = pytest.mark.spark

ROOT = Path(__file__).parents[2]


def joined(spark, labels, wanted, busy_rows):
    """Of each label, in the order given, the numbers Spark finds."""
    frame = spark.createDataFrame(label_table(labels))
    made = examples.join_as_of(frame, wanted, busy_rows).orderBy("event_id").collect()
    found = [(row["user_id"], row["item_id"]) for row in made]
    assert found == [(label.user_id, label.item_id) for label in labels], "every label stays, once"
    return [tuple(row[each.name] for each in wanted) for row in made]


@pytest.mark.parametrize("busy_rows", [4, examples.BUSY_ROWS])
def test_each_label_knows_what_a_plain_search_finds(spark, busy_rows):
    @settings(max_examples=3, deadline=None, suppress_health_check=list(HealthCheck))
    @given(world=worlds(min_rows=25, max_rows=70))
    def check(world):
        with tempfile.TemporaryDirectory() as folder:
            wanted = wanted_of(world, Path(folder))
            assert joined(spark, world.labels, wanted, busy_rows) == answers(world, wanted)

    check()


@pytest.mark.parametrize("busy_rows", [50, examples.BUSY_ROWS])
def test_empty_sides_and_a_busy_key(spark, tmp_path, busy_rows):
    draw = random.Random(1)
    busy = [Row("bot", draw.randrange(5_000), draw.randrange(3)) for _ in range(300)] + [Row("u", 7, 0)]
    asked = [Label(draw.choice(["bot", "bot", "u", None]), None, draw.randrange(-100, 6_000)) for _ in range(500)]
    world = AsOfWorld({"item_vectors": [], "user_vectors": busy, "user_histories": busy[::7]}, asked)
    wanted = wanted_of(world, tmp_path)
    rows = spark.createDataFrame([("bot", at) for at in range(60)], f"{examples.KEY} string, {examples.AT} long")
    assert examples._cuts(rows, busy_rows).count() == (busy_rows < 60), "only a busy key is cut"
    assert joined(spark, asked, wanted, busy_rows) == answers(world, wanted)
    assert joined(spark, [], wanted, busy_rows) == []


def test_a_folder_of_any_name_is_read_as_it_is(spark, tmp_path):
    world = AsOfWorld({"user_vectors": [Row("u", 1, 0), Row("7", 1, 0)]}, [Label("u", None, 5), Label("7", None, 0)])
    wanted = wanted_of(world, tmp_path / "user_id=7" / "it's [a] *{folder}? #1" / "ünï%20")
    assert joined(spark, world.labels, wanted, examples.BUSY_ROWS) == answers(world, wanted)


TOML = """
[items]
path = "items.csv"
[events]
path = "events.csv"
time = "time"
label = "label"
context = ["query"]
[histories]
max_length = 4
"""


@pytest.fixture
def featured(world):
    """A plan with features of made-up vectors; some users have none, and some items come late."""
    draw = random.Random(3)
    world.write("items.csv", "item_id,title\n" + "".join(f"i{n},Item {n}\n" for n in range(30)))
    lines = [
        f"u{draw.randrange(25)},i{draw.randrange(30)},{draw.randrange(900)},{draw.randrange(2)},{draw.choice('äb')}\n"
        for _ in range(700)
    ]
    world.write("events.csv", "user_id,item_id,time,label,query\n" + "".join(lines))
    plan = world.plan(TOML, "examples.shard_rows=150", "examples.pass_rows=200")
    run(plan, ["item_stats", "user_stats", "histories"])
    vectors = {"space_id": "5eed" * 4, "content_hash": "0" * 16}
    stats, histories = (plan.dataset(name).table().to_pylist() for name in ("item_stats", "histories"))
    items = [{"item_id": row["item_id"], "available_at": row["first_seen_at"]} for row in stats[:-3]]
    users = [{name: row[name] for name in ("user_id", "snapshot_at")} for row in histories if row["is_embedded"]]
    for name, rows in (("item_vectors", items), ("user_vectors", users)):
        dataset = plan.dataset(name)
        dataset.folder.mkdir(parents=True)
        filled = [row | vectors | {"vector": [float(number), 1.0]} for number, row in enumerate(rows)]
        write_shard(dataset.folder / "part-00000.parquet", pa.Table.from_pylist(filled, schema=dataset.schema))
        commit(dataset, Outcome(rows_in=len(rows), rows_ok=len(rows)), {})
    run(plan, ["item_features", "user_features"])
    return world, plan


@pytest.mark.slow
def test_the_dataset_of_spark_submit_is_that_of_one_process(featured):
    world, plan = featured
    (world.folder / "source.toml").write_text(TOML)
    there = submitted(world)
    assert there.returncode == 0, there.stdout + there.stderr[-2000:]
    made = plan.dataset("examples")
    manifest, table = made.manifest, made.table()
    assert table.num_rows == manifest["rows_ok"]
    assert not any(".shard_rows" in name for name in manifest["files"])
    shutil.rmtree(made.folder)
    run(plan, ["examples"])
    assert made.table().equals(table), "the same rows in the same order"
    assert len(made.shards()) == 5
    counts = ("rows_in", "rows_ok", "rows_rejected", "rows_skipped", "inputs", "settings", "fingerprint")
    assert {name: manifest[name] for name in counts} == {name: made.manifest[name] for name in counts}
    for name in ("item_vector_row", "user_vector_row", "history_row"):
        assert 0 < table.column(name).null_count < table.num_rows


def test_what_a_job_left_uncommitted_passes_for_no_shard(featured):
    """Spark's shards are of other sizes than this process makes: without a manifest they are made anew."""
    _, plan = featured
    stage, made = BY_NAME["examples"], plan.dataset("examples")
    examples.execute(make_job(plan, stage))
    left = made.table()
    assert made.manifest is None
    assert len(made.shards()) != 5
    run(plan, ["examples"])
    assert len(made.shards()) == 5
    assert made.table().equals(left)
    for path in (made.shards()[1], made.shards()[3], made.folder / "manifest.json"):
        path.unlink()
    run(plan, ["examples"])
    assert made.table().equals(left), "a killed run goes on at the missing shards"
    (made.folder / "manifest.json").unlink()
    run_stage(plan, stage, examples.execute)
    assert made.table().equals(left)


def submitted(world):
    binaries = Path(sys.executable).parent
    command = [binaries / "spark-submit", "--master", "local-cluster[2,1,512]"]
    command += ["--conf", "spark.ui.enabled=false", "--conf", "spark.executor.memory=512m"]
    command += [ROOT / "spark_jobs" / "examples.py", "--source", world.folder / "source.toml", "--preset", "tiny"]
    command += ["--work", world.folder / "work"]
    environment = {**os.environ, "PATH": f"{binaries}:{os.environ['PATH']}", "SPARK_LOCAL_IP": "127.0.0.1"}
    environment["SPARK_WORKER_DIR"] = str(world.folder / "workers")
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, cwd=world.folder, timeout=300, check=False
    )
