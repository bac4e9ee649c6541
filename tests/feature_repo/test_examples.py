"""Examples hold, for every label, exactly what a plain search says was known at the time of the event."""

import random
from datetime import datetime
from types import ModuleType
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from feature_repo import examples
from feature_repo.examples import join_examples
from pipeline import schemas
from pipeline.config import Examples
from pipeline.errors import SpaceMismatch

pytestmark = [pytest.mark.feast, pytest.mark.slow]


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


@pytest.mark.parametrize("seed", [0, 1])
def test_every_example_equals_the_plain_search(seed: int, published: Any, build: ModuleType):
    world, items, users = published
    item_rows = world.item_vectors.table().to_pylist()
    user_rows = world.user_vectors.table().to_pylist()
    history_rows = world.histories.table().to_pylist()
    events = interactions(build, seed, 600)
    given = as_batches(events, [1, 0, 250, 349])
    made = list(join_examples(iter(given), Examples(), item_features=items, user_features=users))
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


def test_only_history_rows_make_an_empty_batch(published: Any, build: ModuleType):
    _, items, users = published
    rows = [row | {"split": "history"} for row in interactions(build, 3, 5)]
    made = list(join_examples(iter(as_batches(rows, [5])), Examples(), item_features=items, user_features=users))
    assert [batch.num_rows for batch in made] == [0]
    assert made[0].schema.equals(schemas.EXAMPLES)


def test_pieces_bound_the_pairs_and_keep_every_row(build: ModuleType):
    side = examples.Side(
        key="user_id",
        features={},
        keys=pa.array([f"u{number:03d}" for number in range(10)]),
        num_rows=np.arange(10, dtype=np.int64) * 300_000,
    )
    labels = as_batches(interactions(build, 4, 500), [500])[0]
    pieces = list(examples._pieces(labels, side))
    assert len(pieces) > 1
    assert pa.concat_batches(pieces).equals(labels)
    for piece in pieces:
        users = [int(user[1:]) for user in piece.column("user_id").to_pylist()]
        assert sum(300_000 * user if user < 10 else 0 for user in users) <= examples.MAX_PAIRS + 3_000_000


def test_cut_pieces_join_as_one(published: Any, build: ModuleType):
    world, _, users = published
    side = examples._user_side(*examples.user_plans(users.folder, build.SPACE))
    heavy = examples.Side(
        key=side.key, features=side.features, keys=side.keys, num_rows=side.num_rows * (examples.MAX_PAIRS // 500)
    )
    assert len(list(examples._pieces(as_batches(interactions(build, 5, 120), [120])[0], heavy))) > 2
    with examples.quiet_feast():
        store = examples.open_store(world.home)
        labels = as_batches(interactions(build, 5, 120), [120])[0]
        whole, cut = (
            pa.concat_tables(examples._join_side(store, piece, each) for piece in examples._pieces(labels, each))
            for each in (side, heavy)
        )
    assert whole.to_pydict() == cut.to_pydict()


def test_the_join_reads_the_publication_it_was_given(world: Any, build: ModuleType):
    users = world.publish_users()
    first = world.publish_items("a" * 16)
    late = [row | {"available_at": build.at(500)} for row in build.item_vector_rows(40)]
    vectors = build.committed(world.workspace, "item_vectors", schemas.ITEM_VECTORS, late, "late")
    second = world.with_(item_vectors=vectors).publish_items("c" * 16)
    rows = [row | {"split": "train", "item_id": "i001"} for row in interactions(build, 6, 3)]
    rows = [row | {"event_at": build.at(100)} for row in rows]
    for items, wanted in [(first, [1, 1, 1]), (second, [None] * 3), (first, [1, 1, 1])]:
        batches = iter(as_batches(rows, [3]))
        made = next(join_examples(batches, Examples(), item_features=items, user_features=users))
        assert made.column("item_vector_row").to_pylist() == wanted


def test_two_spaces_never_join(world: Any, build: ModuleType):
    other = build.make_world(world.workspace.root, space=build.OTHER_SPACE, salt=5)
    items, users = world.publish_items(online=False), other.publish_users(online=False)
    with pytest.raises(SpaceMismatch, match=build.OTHER_SPACE):
        next(join_examples(iter([]), Examples(), item_features=items, user_features=users))
