"""A log of a few users with everything an audit reads, made without a model: tables by the stages, vectors by hand.

Vectors and the point-in-time join are written out plainly here, so that the audit is held against something else than
the code it audits.
"""

from bisect import bisect_right
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.runner import Plan, make_plan, run
from pipeline.settings import identity, resolve
from pipeline.source import load_source
from pipeline.storage import Dataset, Outcome, Workspace, commit, write_shard
from pipeline.texts import item_text, text_id, user_text

SOURCE = """
[items]
path = "items.csv"
[events]
path = "events.csv"
time = "time"
label = "label"
split = "split"
[users]
path = "users.csv"
attributes = ["age"]
[labels]
split = { by = "SPLIT", fractions = [0.6, 0.2, 0.2] }
[histories]
events = "EVENTS"
max_length = 6
"""
OVERRIDES = ("prompts.user_rows=8", "prompts.item_rows=6", "prompts.history_titles=4", "user_vectors.history_titles=5")
NUM_USERS, NUM_ITEMS, NUM_EVENTS = 10, 15, 240
Row = dict[str, Any]


def write_source(folder: Path, split: str = "time", events: str = "positive") -> Path:
    """Items, users and a log in which every user acts throughout; returns the TOML."""
    folder.mkdir(parents=True, exist_ok=True)
    items = "".join(f"i{n:02d},Title {n}\n" for n in range(NUM_ITEMS))
    (folder / "items.csv").write_text("item_id,title\n" + items)
    (folder / "users.csv").write_text("user_id,age\n" + "".join(f"u{n},{20 + n}\n" for n in range(NUM_USERS - 1)))
    rows = [
        f"u{n % NUM_USERS},i{(n * n + n // 7) % NUM_ITEMS:02d},{10_000 + n // 2},{int(n % 3 > 0)},"
        f"{'train' if n < 140 else 'valid' if n < 190 else 'test'}\n"
        for n in range(NUM_EVENTS)
    ]
    (folder / "events.csv").write_text("user_id,item_id,time,label,split\n" + "".join(rows))
    path = folder / "source.toml"
    path.write_text(SOURCE.replace("SPLIT", split).replace("EVENTS", events))
    return path


def plan_in(work: Path, source: Path) -> Plan:
    """The plan of the world in a work folder."""
    return make_plan(Workspace(work), load_source(str(source)), resolve("tiny", OVERRIDES))


def make_world(work: Path, source: Path) -> Plan:
    """Everything the audit reads, committed; nothing leaks."""
    plan = plan_in(work, source)
    run(plan, ["items", "users", "interactions", "item_stats", "histories", "prompts"])
    item_rows = [_item_vector(row, plan) for row in plan.dataset("items").table().to_pylist()]
    save(plan, "item_vectors", item_rows)
    save(plan, "user_vectors", [_user_vector(row, plan) for row in _embedded(plan)])
    save(plan, "examples", _examples(plan))
    return plan


def save(plan: Plan, name: str, rows: list[Row]) -> None:
    """Commits rows in three shards."""
    dataset = plan.dataset(name)
    dataset.folder.mkdir(parents=True, exist_ok=True)
    cuts = [len(rows) * part // 3 for part in range(4)]
    for number in range(3):
        _write(dataset, f"part-{number:05d}.parquet", rows[cuts[number] : cuts[number + 1]])
    commit(dataset, Outcome(rows_in=len(rows), rows_ok=len(rows)), {"settings": identity(plan.settings[name])})


def tamper(dataset: Dataset, change: Callable[[Row], Row]) -> None:
    """Rewrites every shard, each row as `change` says; the manifest stays."""
    for path in dataset.shards():
        rows = pq.read_table(path, partitioning=None).cast(dataset.schema).to_pylist()
        _write(dataset, path.name, [change(row) for row in rows])


def rendered(plan: Plan, user: str, events: list[Row], num_titles: int) -> str:
    """The user's text after these events."""
    titles = {row["item_id"]: row["title"] for row in plan.dataset("items").table().to_pylist()}
    profiles = {row["user_id"]: dict(row["attributes"]) for row in plan.dataset("users").table().to_pylist()}
    shown = events[-num_titles:]
    return user_text(profiles[user], [titles[row["item_id"]] for row in shown], [row["is_click"] for row in shown])


def events_of(plan: Plan, user: str) -> list[Row]:
    """What the user's histories are made of, in order."""
    rows = plan.dataset("interactions").table().to_pylist()
    kept = plan.source.histories.events == "all"
    return [row for row in rows if row["user_id"] == user and (kept or row["is_click"])]


def _write(dataset: Dataset, name: str, rows: list[Row]) -> None:
    write_shard(dataset.folder / name, pa.Table.from_pylist(rows, schema=dataset.schema))


def _item_vector(row: Row, plan: Plan) -> Row:
    stats = {stat["item_id"]: stat for stat in plan.dataset("item_stats").table().to_pylist()}
    read = item_text(row["text"], dict(row["attributes"]))
    return {
        "item_id": row["item_id"],
        "vector": [1.0, 0.0],
        "space_id": "s",
        "content_hash": text_id(read),
        "available_at": stats[row["item_id"]]["first_seen_at"],
    }


def _embedded(plan: Plan) -> list[Row]:
    return [row for row in plan.dataset("histories").table().to_pylist() if row["is_embedded"]]


def _user_vector(row: Row, plan: Plan) -> Row:
    before = [event for event in events_of(plan, row["user_id"]) if event["event_at"] < row["snapshot_at"]]
    read = rendered(plan, row["user_id"], before, 5)
    return {
        "user_id": row["user_id"],
        "snapshot_at": row["snapshot_at"],
        "vector": [0.0, 1.0],
        "space_id": "s",
        "content_hash": text_id(read),
    }


def _examples(plan: Plan) -> list[Row]:
    items = {row["item_id"]: n for n, row in enumerate(plan.dataset("item_vectors").table().to_pylist())}
    joins = {name: _as_of(plan.dataset(name)) for name in ("user_vectors", "histories")}
    labels = [row for row in plan.dataset("interactions").table().to_pylist() if row["split"] != "history"]
    return [
        {
            **{name: row[name] for name in ("event_id", "user_id", "item_id", "event_at", "is_click", "split")},
            "context": [],
            "item_vector_row": items[row["item_id"]],
            "user_vector_row": joins["user_vectors"](row["user_id"], row["event_at"]),
            "history_row": joins["histories"](row["user_id"], row["event_at"]),
        }
        for row in labels
    ]


def _as_of(dataset: Dataset) -> Callable[[str, Any], int | None]:
    """(user, time) → number of the latest row of that user up to that time."""
    of_user: dict[str, list[tuple[Any, int]]] = {}
    for number, row in enumerate(dataset.table().to_pylist()):
        of_user.setdefault(row["user_id"], []).append((row["snapshot_at"], number))

    def find(user: str, at: Any) -> int | None:
        snapshots = sorted(of_user.get(user, []))
        place = bisect_right(snapshots, (at, 10**9))
        return snapshots[place - 1][1] if place else None

    return find
