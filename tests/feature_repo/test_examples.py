"""Examples hold, for every label, exactly what a plain search says was known at the time of the event."""

import random
import subprocess
import sys
from datetime import datetime
from types import ModuleType
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from feature_repo.examples import join_examples
from pipeline import schemas
from pipeline.config import Examples
from pipeline.errors import SpaceMismatch


def known_at(rows: list[dict], key: str, entity: str, time: str, moment: datetime) -> int | None:
    """The plain reference: number of the latest row of the entity that is not later than the moment."""
    best = None
    for number, row in enumerate(rows):
        if row[key] == entity and row[time] <= moment and (best is None or row[time] > rows[best][time]):
            best = number
    return best


def interactions(build: ModuleType, seed: int, count: int) -> list[dict]:
    """Events with many equal times, times before every feature, unknown users and items."""
    draw = random.Random(seed)
    return [
        {
            "event_id": number,
            "user_id": f"u{draw.randrange(15):03d}",
            "item_id": f"i{draw.randrange(48):03d}",
            "event_at": build.at(draw.choice([-1, 0, 1, 2, 2.5, 3, 6, 10, 11, 12, 20, 21.5, 30, 5_000, 200_000])),
            "is_click": draw.randrange(2),
            "split": draw.choice(["history", "train", "valid", "test"]),
            "context": {"query": f"q{number}"} if number % 3 else {},
        }
        for number in range(count)
    ]


def as_batches(rows: list[dict], sizes: list[int]) -> list[pa.RecordBatch]:
    batch = pa.RecordBatch.from_pylist(rows, schema=schemas.INTERACTIONS)
    starts = np.cumsum([0, *sizes])
    return [batch.slice(start, size) for start, size in zip(starts, sizes, strict=False)]


@pytest.mark.parametrize("pass_rows", [1, 100, 1_000_000])
def test_every_example_equals_the_plain_search(pass_rows: int, featured: Any, build: ModuleType):
    world, items, users = featured
    item_rows = world.item_vectors.table().to_pylist()
    user_rows = world.user_vectors.table().to_pylist()
    history_rows = world.histories.table().to_pylist()
    given = as_batches(interactions(build, pass_rows, 600), [1, 0, 250, 349])
    config = Examples(pass_rows=pass_rows)
    made = list(join_examples(iter(given), config, item_features=items, user_features=users))
    assert len(made) == len(given)
    for batch, source in zip(made, given, strict=True):
        assert batch.schema.equals(schemas.EXAMPLES)
        kept = [row for row in source.to_pylist() if row["split"] != "history"]
        assert batch.column("event_id").to_pylist() == [row["event_id"] for row in kept], "order is kept"
        for row, event in zip(batch.to_pylist(), kept, strict=True):
            moment = event["event_at"]
            assert row["item_vector_row"] == known_at(item_rows, "item_id", event["item_id"], "available_at", moment)
            assert row["user_vector_row"] == known_at(user_rows, "user_id", event["user_id"], "snapshot_at", moment)
            assert row["history_row"] == known_at(history_rows, "user_id", event["user_id"], "snapshot_at", moment)
            assert {name: row[name] for name in event} == event


def test_only_history_rows_make_an_empty_batch(featured: Any, build: ModuleType):
    _, items, users = featured
    rows = [row | {"split": "history"} for row in interactions(build, 3, 5)]
    made = list(join_examples(iter(as_batches(rows, [5])), Examples(), item_features=items, user_features=users))
    assert [batch.num_rows for batch in made] == [0]
    assert made[0].schema.equals(schemas.EXAMPLES)


def test_the_join_reads_the_features_it_was_given(world: Any, build: ModuleType):
    users = world.user_features()
    first = world.item_features("a" * 16)
    late = [row | {"available_at": build.at(500)} for row in build.item_vector_rows(40)]
    vectors = build.committed(world.workspace, "item_vectors", schemas.ITEM_VECTORS, late, "late")
    second = world.with_(item_vectors=vectors).item_features("c" * 16)
    rows = [row | {"split": "train", "item_id": "i001"} for row in interactions(build, 6, 3)]
    rows = [row | {"event_at": build.at(100)} for row in rows]
    for items, wanted in [(first, [1, 1, 1]), (second, [None] * 3), (first, [1, 1, 1])]:
        batches = iter(as_batches(rows, [3]))
        made = next(join_examples(batches, Examples(), item_features=items, user_features=users))
        assert made.column("item_vector_row").to_pylist() == wanted


def test_two_spaces_never_join(world: Any, build: ModuleType):
    other = build.make_world(world.workspace.root, space=build.OTHER_SPACE, salt=5)
    items, users = world.item_features(), other.user_features("d" * 16)
    with pytest.raises(SpaceMismatch, match=build.OTHER_SPACE):
        next(join_examples(iter([]), Examples(), item_features=items, user_features=users))


def test_importing_the_stage_loads_neither_feast_nor_duckdb():
    script = "import sys; import feature_repo.examples; print(sorted({'feast', 'redis', 'duckdb'} & set(sys.modules)))"
    told = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert told.stdout.strip() == "[]"
