"""Interactions, item_features and user_features of any size, as the stages above examples leave them.

Items are drawn by Zipf's law, users by a flatter one; ids are strings. A user has a history at each event and a vector
at each doubling of it, an item one vector, known from some time before or within the log.
"""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from feature_repo.definitions import ViewPlan, item_plans, user_plans
from pipeline import schemas
from pipeline.stages import BY_NAME
from pipeline.storage import Dataset, Outcome, commit

PIECE_ROWS = 250_000
PART_ROWS = 16_384
ITEM_SKEW, USER_SKEW = 1.0, 0.5
START = 1_700_000_000_000_000
QUARTER = 90 * 24 * 3_600_000_000
SPACE = "5eed" * 4
FIRST_EMBEDDED = 2
"""Events of a user before the first vector."""

Numbers = npt.NDArray[np.int64]


def dataset(folder: Path, name: str) -> Dataset:
    """A dataset of the world, made or not."""
    return Dataset(name=name, fingerprint="0" * 16, folder=folder / name / ("0" * 16), schema=BY_NAME[name].schema)


def wanted_views(folder: Path) -> tuple[ViewPlan, ViewPlan, ViewPlan]:
    """Vectors of items, vectors of users, histories."""
    items, _ = item_plans(dataset(folder, "item_features").folder, SPACE)
    users, histories, _ = user_plans(dataset(folder, "user_features").folder, SPACE)
    return items, users, histories


def make_world(folder: Path, rows: int, dim: int) -> str:
    """Writes the datasets; returns their sizes in words.

    Args:
        folder: of everything.
        rows: impressions; a tenth of it items, a twentieth users.
        dim: numbers in a vector.
    """
    draw = np.random.default_rng(1)
    num_items, num_users = max(rows // 10, 1), max(rows // 20, 1)
    at_N = np.sort(draw.integers(0, QUARTER, rows)) + START
    user_N, item_N = _skewed(draw, num_users, rows, USER_SKEW), _skewed(draw, num_items, rows, ITEM_SKEW)
    _write_interactions(dataset(folder, "interactions"), user_N, item_N, at_N)
    items, users, histories = wanted_views(folder)
    _write_view(items, np.arange(num_items), draw.integers(-QUARTER, QUARTER // 2, num_items) + START, dim)
    user_H, at_H, events_H = _snapshots(user_N, at_N)
    _write_view(histories, user_H, at_H, 0)
    is_embedded = (events_H >= FIRST_EMBEDDED) & ((events_H & (events_H - 1)) == 0)
    _write_view(users, user_H[is_embedded], at_H[is_embedded], dim)
    for name in ("item_features", "user_features"):
        commit(dataset(folder, name), Outcome(details={"space_id": SPACE}), {})
    return (
        f"{rows:,} impressions, {num_items:,} item vectors, {is_embedded.sum():,} user vectors and"
        f" {len(user_H):,} histories of {num_users:,} users, {dim} numbers each"
    )


def _skewed(draw: np.random.Generator, size: int, rows: int, power: float) -> Numbers:
    mass = np.cumsum(1.0 / np.arange(1, size + 1) ** power)
    return draw.permutation(size)[np.searchsorted(mass / mass[-1], draw.random(rows))]


def _ids(kind: str, numbers: Numbers) -> pa.Array:
    return pc.binary_join_element_wise(kind, pc.cast(pa.array(numbers), pa.string()), "-")


def _snapshots(user_N: Numbers, at_N: Numbers) -> tuple[Numbers, Numbers, Numbers]:
    """User, time and number of earlier snapshots of each distinct event time of each user, in this order."""
    order = np.lexsort((at_N, user_N))
    user_H, at_H = user_N[order], at_N[order]
    is_other = np.r_[True, np.diff(user_H) != 0]
    is_distinct = is_other | np.r_[True, np.diff(at_H) != 0]
    user_H, at_H, is_other = user_H[is_distinct], at_H[is_distinct], is_other[is_distinct]
    place_H = np.arange(len(user_H))
    return user_H, at_H, place_H - np.maximum.accumulate(np.where(is_other, place_H, 0))


def _write_interactions(made: Dataset, user_N: Numbers, item_N: Numbers, at_N: Numbers) -> None:
    made.folder.mkdir(parents=True)
    devices = pa.array(["phone", "desk"])
    for number, start in enumerate(range(0, len(at_N), PIECE_ROWS)):
        user_P, item_P, at_P = (column[start : start + PIECE_ROWS] for column in (user_N, item_N, at_N))
        rows = len(at_P)
        offsets = np.arange(rows + 1, dtype=np.int32)
        columns = [
            pa.array(np.arange(start, start + rows)),
            _ids("user", user_P),
            _ids("item", item_P),
            pa.array(at_P).cast(schemas.TIME),
            pa.array((item_P % 3 == 0).astype(np.int8)),
            pa.array(["train"] * rows),
            pa.MapArray.from_arrays(offsets, pa.array(["device"] * rows), devices.take(pa.array(item_P % 2))),
        ]
        table = pa.Table.from_arrays(columns, schema=schemas.INTERACTIONS)
        pq.write_table(table, made.folder / f"part-{number:05d}.parquet", compression="zstd")
    commit(made, Outcome(rows_in=len(at_N), rows_ok=len(at_N)), {})


def _write_view(plan: ViewPlan, key_H: Numbers, at_H: Numbers, dim: int) -> None:
    """The offline files of a view; where it has vectors, vectors.npy beside them."""
    rows, kind = len(at_H), plan.key.name.removesuffix("_id")
    plan.files.mkdir(parents=True)
    draw = np.random.default_rng(2)
    vectors_ND = np.lib.format.open_memmap(plan.files.parent / "vectors.npy", "w+", np.float32, (rows, dim or 1))
    for number, start in enumerate(range(0, max(rows, 1), PART_ROWS)):
        stop = min(start + PART_ROWS, rows)
        numbers, times = pa.array(np.arange(start, stop)), pa.array(at_H[start:stop]).cast(schemas.TIME)
        columns = {field.name: numbers.cast(field.type) for field in plan.features if field.name != "vector"}
        if dim:
            vectors_ND[start:stop] = draw.standard_normal((stop - start, dim), dtype=np.float32)
            offsets = np.arange(0, (stop - start) * dim + 1, dim, dtype=np.int32)
            columns["vector"] = pa.ListArray.from_arrays(offsets, vectors_ND[start:stop].reshape(-1))
        columns |= {plan.key.name: _ids(kind, key_H[start:stop]), "event_timestamp": times, "created": times}
        table = pa.table([columns[name] for name in plan.file_schema.names], schema=plan.file_schema)
        pq.write_table(table, plan.files / f"part-{number:05d}.parquet", compression="zstd")
