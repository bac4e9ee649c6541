"""Partitions follow the bytes that are read; a key that holds a large share of a log is no one task's."""

from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from pyspark.sql import functions as F

from pipeline.config import Histories, Items
from pipeline.runner import make_job
from pipeline.source import parse_source
from pipeline.stages import BY_NAME
from spark_jobs import histories, shuffles
from spark_jobs.session import LARGE_BYTES, session

TOML = """
[items]
path = "items.csv"
[events]
path = "events.csv"
time = "time"
label = "label"
[histories]
events = "all"
max_length = 10
"""
NUM_EVENTS, NUM_USERS, NUM_ITEMS = 6000, 200, 40


def skewed():
    """(user, item, second, label): one user has 30% of the events and one item 50%, both spread over all of them."""
    for number in range(NUM_EVENTS):
        user = "busy" if number % 10 < 3 else f"u{number * 7 % NUM_USERS}"
        item = "hot" if number % 2 else f"i{number * 11 % NUM_ITEMS}"
        yield user, item, number // 3, number % 5 == 0


def test_partitions_grow_with_the_bytes_and_are_never_fewer_than_the_cores():
    assert shuffles.num_partitions(0, 8) == 8
    counts = [shuffles.num_partitions(num_bytes, 8) for num_bytes in (2**20, 2**30, 2**40)]
    assert counts == [8, 64, 65536]
    assert shuffles.num_partitions(2**30, 12) == 72, "64 partitions would keep four of twelve cores busy at the end"
    assert shuffles.num_partitions(2**60, 8) == shuffles.MOST


def test_a_small_source_has_a_partition_for_each_core_that_has_work():
    assert [shuffles.few_partitions(num_bytes, 8) for num_bytes in (0, 2**17, 2**20, 2**24)] == [1, 1, 4, 8]


@pytest.mark.spark
def test_a_stage_is_cut_by_what_it_reads_unless_somebody_says_otherwise(world, spark):
    world.write("items.csv", "item_id,title\n" + "i1,A\n" * 1000)
    world.write("events.csv", "user_id,item_id,time,label\nu1,i1,1,1\n")

    job = make_job(world.plan(TOML), BY_NAME["items"])
    listed = [(world.folder / name).stat().st_size for name in ("items.csv", "events.csv")]
    assert shuffles.source_bytes(job.source) == sum(listed)
    assert shuffles.bytes_read(job) == (world.folder / "items.csv").stat().st_size
    assert session(shuffles.source_bytes(job.source)).conf.get(shuffles.ADAPTIVE) == "false"
    assert shuffles.partitions_of(job, spark) == 1
    assert session(LARGE_BYTES + 1).conf.get(shuffles.ADAPTIVE) == "true"
    assert shuffles.partitions_of(job, spark) == spark.sparkContext.defaultParallelism
    assert shuffles.partitions_of(replace(job, config=Items(spark_partitions=9)), spark) == 9


@pytest.mark.spark
def test_a_busy_user_and_a_hot_item_are_counted_and_listed_like_any_other(world):
    rows = list(skewed())
    world.write("items.csv", "item_id,title\nhot,Hot\n" + "".join(f"i{n},Item {n}\n" for n in range(NUM_ITEMS)))
    world.write("events.csv", "user_id,item_id,time,label\n" + "".join(f"{u},{i},{t},{y:d}\n" for u, i, t, y in rows))
    made = world.make(TOML, "interactions", "item_stats", "user_stats", "histories")
    events = made["interactions"].to_pylist()
    assert [row["event_id"] for row in events] == list(range(NUM_EVENTS))
    train = [row for row in events if row["split"] == "train"]
    for stats, key in (("item_stats", "item_id"), ("user_stats", "user_id")):
        exposures = Counter(row[key] for row in train)
        clicks = Counter(row[key] for row in train if row["is_click"])
        for row in made[stats].to_pylist():
            assert (row["exposures"], row["clicks"]) == (exposures[row[key]], clicks[row[key]])
    assert listed(made["histories"].to_pylist()) == reference(events)


@pytest.mark.spark
def test_a_busy_users_history_is_dealt_to_many_tasks(spark, tmp_path):
    for name in ("items.csv", "events.csv"):
        (tmp_path / name).write_text("x\n")
    source = parse_source("world", TOML, tmp_path)
    columns = "event_id bigint, user_id string, item_id string, event_at timestamp, is_click tinyint"
    rows = [(n, u, i, datetime.fromtimestamp(t, UTC), int(y)) for n, (u, i, t, y) in enumerate(skewed())]
    before = {key: spark.conf.get(key) for key in (shuffles.SETTING, "spark.sql.adaptive.enabled")}
    spark.conf.set(shuffles.SETTING, 8)
    spark.conf.set("spark.sql.adaptive.enabled", "false")
    try:
        made = histories.make(spark.createDataFrame(rows, columns), Histories(), source)
        rows = made.rows.select("user_id", "snapshot_at", F.spark_partition_id().alias("task")).collect()
        plan = made.rows._jdf.queryExecution().executedPlan().toString()
    finally:
        for key, value in before.items():
            spark.conf.set(key, value)
    assert rows == sorted(rows), "the rows are not placed in the order of the dataset"
    assert (plan.count("Exchange hashpartitioning"), plan.count("Exchange rangepartitioning")) == (1, 1)
    tasks = Counter(row.task for row in rows)
    assert len({row.task for row in rows if row.user_id == "busy"}) >= 3
    assert max(tasks.values()) < len(rows) / 4


def listed(histories):
    return [(r["user_id"], r["snapshot_at"], r["num_events"], r["item_ids"], r["event_times"]) for r in histories]


def reference(events):
    """The last ten events strictly before each time a user acts."""
    made = []
    for user in sorted({row["user_id"] for row in events}):
        mine = [row for row in events if row["user_id"] == user]
        times = [row["event_at"] for row in mine]
        for at in sorted(set(times)):
            before = mine[: next(place for place, time in enumerate(times) if time == at)]
            if before:
                last = before[-10:]
                made.append((user, at, len(before), [r["item_id"] for r in last], [r["event_at"] for r in last]))
    return made
