"""Histories against a reference in ten plain lines."""

import math
import random
from datetime import UTC, datetime

import pytest

from .conftest import World

pytestmark = pytest.mark.spark

TOML = """
[items]
path = "items.csv"
[events]
path = "events.csv"
time = "time"
label = "label"
[histories]
events = "{events}"
max_length = 4
"""


@pytest.fixture(scope="module")
def log(tmp_path_factory, spark):
    """Few distinct times, so that ties are common, also at the cut."""
    world = World(tmp_path_factory.mktemp("log"))
    draw = random.Random(3)
    rows = [
        (f"u{draw.randrange(6)}", f"i{draw.randrange(9)}", draw.randrange(60) * 5400, draw.randrange(2))
        for _ in range(220)
    ]
    world.write("items.csv", "item_id,title\n" + "".join(f"i{number},Item {number}\n" for number in range(9)))
    world.write("events.csv", "user_id,item_id,time,label\n" + "".join(f"{u},{i},{t},{y}\n" for u, i, t, y in rows))
    world.rows = rows
    return world


def reference(rows, events, step):
    """The last four events strictly before each snapshot, with how many there were."""
    counted = [row for row in sorted(rows, key=lambda row: row[2]) if events == "all" or row[3]]
    made = []
    for user, at in sorted({(row[0], row[2] // step * step) for row in rows}):
        before = [row for row in counted if row[0] == user and row[2] < at]
        if before:
            made.append((user, at, len(before), [row[1] for row in before[-4:]], [row[3] for row in before[-4:]]))
    return made


@pytest.mark.parametrize(
    ("events", "unit", "step"), [("positive", "event", 1), ("all", "hour", 3600), ("all", "day", 86400)]
)
def test_histories_are_what_came_strictly_before(log, events, unit, step):
    table = log.make(TOML.format(events=events), "histories", settings=(f"histories.snapshots={unit}",))["histories"]
    rows = table.to_pylist()
    made = [
        (r["user_id"], int(r["snapshot_at"].timestamp()), r["num_events"], r["item_ids"], r["labels"]) for r in rows
    ]
    assert made == reference(log.rows, events, step)
    assert all(max(row["event_times"]) < row["snapshot_at"] for row in rows)


def test_a_user_is_embedded_again_when_the_history_has_grown(log):
    table = log.make(TOML.format(events="all"), "histories", settings=("histories.embed_growth=2.0",))["histories"]
    last = {}
    for row in table.to_pylist():
        band = math.floor(math.log2(row["num_events"] / 3) + 1e-9) if row["num_events"] >= 3 else -1
        assert row["is_embedded"] == (band > last.get(row["user_id"], -1))
        last[row["user_id"]] = max(band, last.get(row["user_id"], -1))
    every = log.make(TOML.format(events="all"), "histories", settings=("histories.embed_growth=1.0",))["histories"]
    assert all(row["is_embedded"] == (row["num_events"] >= 3) for row in every.to_pylist())


def test_the_future_changes_no_history(log):
    cut = 40 * 5400
    before = log.make(TOML.format(events="all"), "histories")["histories"].to_pylist()
    kept = [row for row in log.rows if row[2] < cut]
    log.write("early.csv", "user_id,item_id,time,label\n" + "".join(f"{u},{i},{t},{y}\n" for u, i, t, y in kept))
    earlier = TOML.format(events="all").replace("events.csv", "early.csv")
    after = log.make(earlier, "histories", work="again")["histories"].to_pylist()
    limit = datetime.fromtimestamp(cut, UTC)
    assert [row for row in before if row["snapshot_at"] < limit] == after
