"""Small worlds for point-in-time joins, drawn by hypothesis, and what a plain search says each label knew."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import strategies as st

from feature_repo.definitions import ITEM_KEY, USER_KEY, ViewPlan
from feature_repo.point_in_time import RowNumbers
from pipeline import schemas

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
TTL = timedelta(hours=1)
KEYS = ("a", "A", "None", "null", "NaN", "", " a", "ключ", "日本\U0001f600", "o'ne\"two\\", "e\u0301", "\u00e9", "a\0b")
_HOUR = TTL // timedelta(microseconds=1)
VIEWS = ("item_vectors", "user_vectors", "user_histories")


@dataclass(frozen=True)
class Row:
    """A row of a view; its number is its place in the view."""

    key: str
    at: int
    created: int


@dataclass(frozen=True)
class Label:
    """A row of labels: who, what and when, in microseconds since 1970."""

    user_id: str | None
    item_id: str | None
    at: int


@dataclass(frozen=True)
class AsOfWorld:
    """Three views and the labels to be joined."""

    views: dict[str, list[Row]]
    labels: list[Label]


def worlds(min_rows: int = 0, max_rows: int = 12) -> st.SearchStrategy[AsOfWorld]:
    """Worlds of few keys and few moments, so that ties and exact edges are common."""
    # A time to live before and after each moment, to the microsecond; half of the moments lie before 1970.
    moments = st.builds(
        lambda hours, off: hours * _HOUR + off, st.integers(-3, 3), st.sampled_from((0, 0, 0, -1, 1, _HOUR // 2))
    )
    rows = st.lists(st.builds(Row, st.sampled_from(KEYS), moments, moments), min_size=min_rows, max_size=max_rows)
    keys = st.sampled_from((*KEYS, "nobody", None))
    labels = st.lists(st.builds(Label, keys, keys, moments), min_size=min_rows, max_size=2 * max_rows)
    twice = labels.map(lambda drawn: drawn + drawn[: len(drawn) // 3])
    return st.builds(AsOfWorld, st.fixed_dictionaries(dict.fromkeys(VIEWS, rows)), twice)


def known_at(rows: Sequence[Row], key: str | None, at: int, ttl: timedelta) -> int | None:
    """The plain reference: of the key's rows that are not later than `at`, the latest; of these the latest created."""
    oldest = at - ttl // timedelta(microseconds=1)
    best = None
    for number, row in enumerate(rows):
        is_known = row.key == key and row.at <= at
        if is_known and (best is None or (row.at, row.created) >= (rows[best].at, rows[best].created)):
            best = number
    return None if best is None or (ttl and rows[best].at < oldest) else best


def answers(world: AsOfWorld, wanted: Sequence[RowNumbers]) -> list[tuple[int | None, ...]]:
    """What the plain reference says of each label, a number for each wanted column."""
    return [
        tuple(
            known_at(world.views[each.plan.name], getattr(label, each.plan.key.name), label.at, each.ttl)
            for each in wanted
        )
        for label in world.labels
    ]


def wanted_of(world: AsOfWorld, folder: Path) -> list[RowNumbers]:
    """Writes the views and asks for each twice: as it is, and with a time to live."""
    plans = [write_view(folder / name, name, rows) for name, rows in world.views.items()]
    return [
        RowNumbers(name=f"{plan.name}_{suffix}", plan=plan, column="number", ttl=ttl)
        for plan in plans
        for suffix, ttl in (("forever", timedelta(0)), ("hour", TTL))
    ]


def write_view(folder: Path, name: str, rows: Sequence[Row]) -> ViewPlan:
    """The rows as the offline files of a view, in two parts that are in no order."""
    key = ITEM_KEY if name.startswith("item") else USER_KEY
    table = pa.table(
        {
            key.name: pa.array([row.key for row in rows], pa.string()),
            "number": pa.array(range(len(rows)), pa.int64()),
            "event_timestamp": pa.array([row.at for row in rows], pa.int64()).cast(schemas.TIME),
            "created": pa.array([row.created for row in rows], pa.int64()).cast(schemas.TIME),
        }
    )
    folder.mkdir(parents=True, exist_ok=True)
    half = len(rows) // 2
    pq.write_table(table.slice(half), folder / "part-00000.parquet")
    pq.write_table(table.slice(0, half), folder / "part-00001.parquet")
    number = pa.field("number", pa.int64(), metadata={"doc": "Its place."})
    return ViewPlan(name=name, key=key, features=(number,), description=name, files=folder, tags={"kind": name})


def label_table(labels: Sequence[Label]) -> pa.Table:
    """The labels with their place, as interactions have them."""
    return pa.table(
        {
            "event_id": pa.array(range(len(labels)), pa.int64()),
            "user_id": pa.array([label.user_id for label in labels], pa.string()),
            "item_id": pa.array([label.item_id for label in labels], pa.string()),
            "event_at": pa.array([label.at for label in labels], pa.int64()).cast(schemas.TIME),
        }
    )
