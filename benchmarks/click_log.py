"""A made-up click log of any size as the datasets ctr_records is made from: what the training benchmarks run on.

Users love three of a hundred categories; an item has a category and a quality; a click follows from both. Histories
hold the latest items a user liked. Written in pieces, so that its own memory does not grow with the rows.
"""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from msd_models.ctr_records import write_records
from pipeline.config import CtrRecords
from pipeline.stages import BY_NAME
from pipeline.storage import Dataset

CATEGORIES, LOVED, LENGTH = 100, 3, 20
PIECE_ROWS = 250_000
EXAMPLES_PER_HISTORY = 4
DATASETS = BY_NAME["ctr_records"].inputs
START = 1_700_000_000_000_000
HOUR = 3_600_000_000


def make_log(folder: Path, rows: int, *, items: int = 20_000, users: int = 50_000, seed: int = 1) -> None:
    """Writes the datasets that records are made from, one folder each.

    Args:
        folder: of everything.
        rows: examples, of which a twentieth each is valid and test.
        items: of the catalogue.
        users: of the log.
        seed: of the world.
    """
    world = _World(items, users, seed)
    _write_entities(folder, world)
    _write_events(folder, world, rows)


def make_records(folder: Path) -> Path:
    """Makes ctr_records of the log in the folder; returns their folder."""
    target = folder / "ctr_records"
    target.mkdir()
    source: Any = SimpleNamespace(events=SimpleNamespace(text_context=()))
    write_records(CtrRecords(max_history=LENGTH), target, source, **{name: _dataset(folder, name) for name in DATASETS})
    return target


class _World:
    def __init__(self, items: int, users: int, seed: int) -> None:
        self.random = np.random.default_rng(seed)
        self.category_I = self.random.integers(CATEGORIES, size=items)
        self.quality_I = self.random.normal(0, 0.7, size=items)
        self.loved_UK = np.argsort(self.random.random((users, CATEGORIES)), axis=1)[:, :LOVED]
        order = np.argsort(self.category_I, kind="stable")
        self.items_by_category = np.split(order, np.searchsorted(self.category_I[order], np.arange(1, CATEGORIES)))


def _write_entities(folder: Path, world: _World) -> None:
    items, users = len(world.category_I), len(world.loved_UK)
    names = [f"i{number}" for number in range(items)]
    categories = [f"c{number}" for number in world.category_I]
    attributes = [[("maker", f"m{number % 50}"), ("year", str(number % 60 + 1960))] for number in range(items)]
    nothing = [None] * items
    tables: dict[str, dict[str, Any]] = {
        "items": {
            "item_id": names,
            "title": names,
            "text": names,
            "category": categories,
            "attributes": attributes,
            "available_at": nothing,
        },
        "users": {
            "user_id": [f"u{u}" for u in range(users)],
            "attributes": [[("age", str(u % 60))] for u in range(users)],
        },
        "item_stats": {
            "item_id": names,
            "exposures": [10] * items,
            "clicks": [5] * items,
            "ctr_shrunk": [0.5] * items,
            "category_ctr": [0.5] * items,
            "exposure_rank": list(range(1, items + 1)),
            "first_seen_at": [START - HOUR] * items,
            "counted_until": [START] * items,
        },
        "context_texts": {"text_id": [], "text": [], "num_events": []},
    }
    datasets = {name: _dataset(folder, name) for name in DATASETS}
    for name, columns in tables.items():
        schema = BY_NAME[name].schema
        pq.write_table(pa.table(columns, schema=schema), datasets[name].folder / "part-00000.parquet")
    published = {"vector_row": list(range(items)), "item_id": names}
    pq.write_table(pa.table(published), datasets["item_features"].folder / "rows.parquet")
    snapshots = {"vector_row": [0], "user_id": ["u0"], "snapshot_at": [0]}
    pq.write_table(pa.table(snapshots), datasets["user_features"].folder / "rows.parquet")


def _write_events(folder: Path, world: _World, rows: int) -> None:
    datasets = {name: _dataset(folder, name) for name in ("examples", "histories")}
    for number, first in enumerate(range(0, rows, PIECE_ROWS)):
        count = min(PIECE_ROWS, rows - first)
        histories = -(-count // EXAMPLES_PER_HISTORY)
        user_S = world.random.integers(len(world.loved_UK), size=histories)
        path = f"part-{number:05d}.parquet"
        pq.write_table(_history_piece(world, user_S, first), datasets["histories"].folder / path)
        start = first // EXAMPLES_PER_HISTORY
        pq.write_table(_example_piece(world, user_S, first, count, rows, start), datasets["examples"].folder / path)


def _history_piece(world: _World, user_S: np.ndarray, first: int) -> pa.Table:
    count = len(user_S)
    loved_SL = world.loved_UK[user_S[:, None], world.random.integers(LOVED, size=(count, LENGTH))]
    item_SL = _item_of(world, loved_SL)
    offsets = pa.array(np.arange(count + 1, dtype=np.int32) * LENGTH)
    ids = pa.DictionaryArray.from_arrays(
        pa.array(item_SL.ravel().astype(np.int32)), pa.array([f"i{n}" for n in range(len(world.category_I))])
    ).cast(pa.string())
    at = START + first * HOUR // 100
    times = pa.array(np.tile(at - np.arange(LENGTH, 0, -1) * HOUR, count)).cast(pa.timestamp("us", tz="UTC"))
    columns = {
        "user_id": [f"u{user}" for user in user_S],
        "snapshot_at": pa.array(np.full(count, at)).cast(pa.timestamp("us", tz="UTC")),
        "num_events": np.full(count, LENGTH),
        "item_ids": pa.ListArray.from_arrays(offsets, ids),
        "event_times": pa.ListArray.from_arrays(offsets, times),
        "labels": pa.ListArray.from_arrays(offsets, pa.array(np.ones(count * LENGTH, dtype=np.int8))),
        "is_embedded": np.zeros(count, dtype=bool),
    }
    return pa.table(columns, schema=BY_NAME["histories"].schema)


def _example_piece(world: _World, user_S: np.ndarray, first: int, count: int, rows: int, start: int) -> pa.Table:
    history_N = np.arange(count) // EXAMPLES_PER_HISTORY
    user_N = user_S[history_N]
    is_loved_N = world.random.random(count) < 0.4
    loved_N = world.loved_UK[user_N, world.random.integers(LOVED, size=count)]
    category_N = np.where(is_loved_N, loved_N, world.random.integers(CATEGORIES, size=count))
    item_N = _item_of(world, category_N)
    matches_N = (world.loved_UK[user_N] == category_N[:, None]).any(axis=1)
    logit_N = -0.9 + 1.6 * matches_N + world.quality_I[item_N]
    number_N = first + np.arange(count)
    split_N = np.select([number_N >= rows * 0.95, number_N >= rows * 0.9], ["test", "valid"], "train")
    columns = {
        "event_id": number_N,
        "user_id": [f"u{user}" for user in user_N],
        "item_id": [f"i{item}" for item in item_N],
        "event_at": pa.array(START + number_N * HOUR // 100).cast(pa.timestamp("us", tz="UTC")),
        "is_click": (world.random.random(count) < 1 / (1 + np.exp(-logit_N))).astype(np.int8),
        "split": split_N,
        "context": pa.array(
            [[("device", "phone")], [("device", "desk")]] * (count // 2 + 1), pa.map_(pa.string(), pa.string())
        )[:count],
        "item_vector_row": item_N,
        "user_vector_row": pa.nulls(count, pa.int64()),
        "history_row": start + history_N,
    }
    return pa.table(columns, schema=BY_NAME["examples"].schema)


def _item_of(world: _World, category: np.ndarray) -> np.ndarray:
    """A random item of each category."""
    sizes = np.array([len(items) for items in world.items_by_category])
    starts = np.cumsum(sizes) - sizes
    flat = np.concatenate(world.items_by_category)
    within = (world.random.random(category.shape) * sizes[category]).astype(np.int64)
    return flat[starts[category] + within]


def _dataset(folder: Path, name: str) -> Dataset:
    (folder / name).mkdir(parents=True, exist_ok=True)
    return Dataset(name=name, fingerprint="benchmark", folder=folder / name, schema=BY_NAME[name].schema)
