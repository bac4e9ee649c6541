"""Days of a small shop up to their vectors, committed at the fingerprints that a day's key means; the rest is made.

Tables, student and vectors are written as their stages would; features, publication, examples, records and canary are
made by the real command. Clicks follow from hidden traits, which a day's vectors show, or do not.
"""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa

from pipeline.call import open_day, plan_of
from pipeline.runner import Plan
from pipeline.storage import Dataset, Outcome, commit, write_shard

START = datetime(2024, 3, 1, tzinfo=UTC)
NUM_USERS, NUM_ITEMS, TRAITS, DIM = 60, 240, 4, 16
SOURCE = '[items]\npath = "items.csv"\n[events]\npath = "events.csv"\n'
OVERRIDES = ["canary_model.seeds=[1, 2]", "canary_model.hidden=[16, 8]", "publication.grace_hours=1000"]


class GatedWorld:
    """A work folder whose days are made one by one."""

    def __init__(self, root: Path) -> None:
        root.mkdir(parents=True, exist_ok=True)
        (root / "items.csv").write_text("item_id,title\n1,a film\n")
        (root / "events.csv").write_text("user_id,item_id,timestamp\nx,1,1700000000\n")
        (root / "shop.toml").write_text(SOURCE)
        self.source, self.work = root / "shop.toml", root / "work"

    def make_day(
        self, day: str, *, events: int = 50, f1: float = 0.6, shows_traits: bool = True, users: int = NUM_USERS
    ) -> Plan:
        """Commits a day up to its vectors; `events` of each user have happened by then."""
        call = {"source": str(self.source), "preset": "tiny", "overrides": OVERRIDES, "refresh_days": 1}
        open_day(self.work, day, call, again=False)
        plan = plan_of(self.work, None, None, None, day)
        log = _log(events, users)
        for name, rows in _tables(log, users).items():
            _commit(plan.dataset(name), rows)
        space = day.replace("-", "").ljust(16, "0")
        details = {"f1_micro": f1, "f1_micro_interval": [f1 - 0.1, f1 + 0.1], "gold_rows": 40, "space_id": space}
        _commit(plan.dataset("student"), [], details)
        random = np.random.default_rng(int(space))
        turn = np.linalg.qr(random.standard_normal((DIM, DIM)))[0]
        for name, rows in _vectors(log, users).items():
            for row in rows:
                seen = row["vector"] if shows_traits else np.zeros(DIM)
                row |= {"vector": (seen @ turn + 0.3 * random.standard_normal(DIM)).tolist(), "space_id": space}
            _commit(plan.dataset(name), rows, {"texts": len(rows), "texts_read": len(rows)})
        return plan


def _log(events: int, users: int) -> list[tuple[int, int, int, int]]:
    """(user, item, number, click), by time; what has happened once is the same every day."""
    random = np.random.default_rng(7)
    drawn = random.integers(NUM_ITEMS, size=(users, 1000))
    chance = np.where(drawn % TRAITS == np.arange(users)[:, None] % TRAITS, 0.85, 0.1)
    clicks = random.random((users, 1000)) < chance
    return [(u, int(drawn[u, n]), n, int(clicks[u, n])) for n in range(events) for u in range(users)]


def _at(number: int) -> datetime:
    return START + timedelta(hours=number)


def _tables(log: list[tuple[int, int, int, int]], users: int) -> dict[str, list[dict]]:
    until = max(number for _, _, number, _ in log)
    train, valid = 0.7 * until, 0.8 * until
    item = [
        {"item_id": f"i{i}", "title": f"item {i}", "text": f"item {i}", "category": "all", "attributes": [],
         "available_at": None} for i in range(NUM_ITEMS)
    ]  # fmt: skip
    counted = {"ctr_shrunk": 0.3, "counted_until": _at(int(train))}
    exposures = np.bincount([i for _, i, number, _ in log if number < train], minlength=NUM_ITEMS)
    return {
        "items": item,
        "interactions": [
            {"event_id": row, "user_id": f"u{u}", "item_id": f"i{i}", "event_at": _at(n), "is_click": click,
             "split": "train" if n < train else "valid" if n < valid else "test", "context": []}
            for row, (u, i, n, click) in enumerate(log)
        ],
        "users": [{"user_id": f"u{u}", "attributes": []} for u in range(users)],
        "item_stats": [
            {"item_id": f"i{i}", "exposures": int(exposures[i]), "clicks": 0, "category_ctr": 0.3,
             "exposure_rank": i + 1, "first_seen_at": START, **counted} for i in range(NUM_ITEMS)
        ],
        "user_stats": [
            {"user_id": f"u{u}", "exposures": 9, "clicks": 3, "first_event_at": START, "last_event_at": None, **counted}
            for u in range(users)
        ],
        "histories": _histories(log, users),
        "context_texts": [],
    }  # fmt: skip


def _histories(log: list[tuple[int, int, int, int]], users: int) -> list[dict]:
    liked: dict[int, list[tuple[int, int]]] = {u: [] for u in range(users)}
    rows = []
    for user, item, number, click in log:
        known = liked[user]
        if known:
            rows.append(
                {"user_id": f"u{user}", "snapshot_at": _at(number), "num_events": len(known),
                 "item_ids": [f"i{i}" for i, _ in known], "event_times": [_at(n) for _, n in known],
                 "labels": [1] * len(known), "is_embedded": len(known) % 4 == 1}
            )  # fmt: skip
        if click:
            known.append((item, number))
    return rows


def _vectors(log: list[tuple[int, int, int, int]], users: int) -> dict[str, list[dict]]:
    """What a good student would say: an item's trait, and a user's."""
    shown = 3 * np.eye(TRAITS, DIM)
    items = [
        {"item_id": f"i{i}", "vector": shown[i % TRAITS], "content_hash": f"{i:016x}", "available_at": START}
        for i in range(NUM_ITEMS)
    ]
    user = [
        {"user_id": row["user_id"], "snapshot_at": row["snapshot_at"], "content_hash": f"{number:016x}",
         "vector": shown[int(row["user_id"][1:]) % TRAITS]}
        for number, row in enumerate(_histories(log, users)) if row["is_embedded"]
    ]  # fmt: skip
    return {"item_vectors": items, "user_vectors": user}


def _commit(dataset: Dataset, rows: list[dict], details: dict | None = None) -> None:
    dataset.folder.mkdir(parents=True, exist_ok=True)
    if dataset.schema is not None:
        write_shard(dataset.folder / "part-00000.parquet", pa.Table.from_pylist(rows, schema=dataset.schema))
    outcome = Outcome(rows_in=len(rows), rows_ok=len(rows), details=details or {})
    commit(dataset, outcome, {"inputs": {}, "seconds": 0.0, "created_at": "2024-03-20T00:00:00+00:00"})
