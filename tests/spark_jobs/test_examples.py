"""The join on Spark against a plain search, and the dataset it commits against the one made without Spark."""

import json
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from as_of_world import AsOfWorld, Label, Row, answers, label_table, wanted_of, worlds, write_view
from hypothesis import HealthCheck, given, settings

from feature_repo.point_in_time import RowNumbers
from pipeline import schemas
from spark_jobs import examples
from spark_jobs.session import spark_schema

pytestmark = pytest.mark.spark

LABELS = [schemas.EXAMPLES.field("event_id").remove_metadata()]


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
    assert joined(spark, asked, wanted, busy_rows) == answers(world, wanted)
    assert joined(spark, [], wanted, busy_rows) == []
