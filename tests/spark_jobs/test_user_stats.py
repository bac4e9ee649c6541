"""Counts of users in the training window against a plain count, and nothing of what came after it."""

import random
from datetime import UTC, datetime

import pytest

pytestmark = pytest.mark.spark

TOML = """
[items]
path = "items.csv"
[events]
path = "events.csv"
time = "time"
label = "label"
split = "split"
[labels]
split = { by = "given" }
"""
PRIOR = 7.0
SETTINGS = (f"user_stats.prior_exposures={PRIOR}",)
CUT = 400
"""The last second of the split train."""


def made(world, rows, work="work", settings=SETTINGS):
    lines = [f"{user},i{number % 5},{at},{label},{split}\n" for number, (user, at, label, split) in enumerate(rows)]
    world.write("items.csv", "item_id,title\n" + "".join(f"i{number},Item {number}\n" for number in range(5)))
    world.write("events.csv", "user_id,item_id,time,label,split\n" + "".join(lines))
    table = world.make(TOML, "user_stats", settings=settings, work=work)["user_stats"]
    return {row["user_id"]: row for row in table.to_pylist()}


@pytest.fixture
def rows():
    """Users of the training window, users of later, and one who clicks all the time."""
    draw = random.Random(5)
    train = [(f"u{draw.randrange(9)}", draw.randrange(CUT), draw.randrange(2), "train") for _ in range(120)]
    train += [("всё", at, 1, "train") for at in range(30)] + [("u0", CUT, 0, "train")]
    late = [
        (f"u{draw.randrange(12)}", CUT + draw.randrange(1, 90), 1, draw.choice(["valid", "test"])) for _ in range(60)
    ]
    before = [("u1", 5, 1, "history"), ("u1", CUT + 50, 1, "history"), ("reader", 3, 1, "history")]
    return [*train, *late, ("newcomer", CUT + 1, 1, "valid"), ("sure", CUT - 1, 1, "test"), *before]


def counted(rows):
    """Events of the window; those of the split history are known before the first label, if they lie in it."""
    return [row for row in rows if row[3] == "train" or (row[3] == "history" and row[1] <= CUT)]


def seconds(value):
    return None if value is None else value.timestamp()


def test_counts_are_those_of_the_training_window(world, rows):
    found = made(world, rows)
    train = counted(rows)
    log_ctr = sum(row[2] for row in train) / len(train)
    assert set(found) == {row[0] for row in rows}, "everyone who acted has a row"
    for user, row in found.items():
        own = [each for each in train if each[0] == user]
        clicks = sum(each[2] for each in own)
        assert (row["exposures"], row["clicks"]) == (len(own), clicks)
        assert row["ctr_shrunk"] == pytest.approx((clicks + PRIOR * log_ctr) / (len(own) + PRIOR))
        assert seconds(row["last_event_at"]) == max((each[1] for each in own), default=None)
        assert seconds(row["first_event_at"]) == min(each[1] for each in rows if each[0] == user)
        assert row["counted_until"] == datetime.fromtimestamp(CUT, UTC).replace(microsecond=1)
    assert list(found) == sorted(found), "written in the order of the key"
    assert found["newcomer"]["last_event_at"] is None
    assert found["sure"]["exposures"] == 0, "a label of another split is not counted, even of an earlier time"


def test_what_came_after_the_window_changes_no_count(world, rows):
    before = made(world, rows)
    flipped = [row if row in counted(rows) else (row[0], row[1], 1 - row[2], row[3]) for row in rows]
    assert made(world, flipped, work="again") == before


def test_without_a_prior_the_rate_is_the_users_own(world, rows):
    found = made(world, rows, settings=("user_stats.prior_exposures=0",))
    train = counted(rows)
    log_ctr = sum(row[2] for row in train) / len(train)
    assert found["всё"]["ctr_shrunk"] == 1
    assert found["newcomer"]["ctr_shrunk"] == pytest.approx(log_ctr), "nobody's rate is the log's"
