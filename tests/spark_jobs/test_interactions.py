"""What becomes of the rows of an event log."""

import random
from collections import Counter, defaultdict
from datetime import UTC, datetime

import pytest

from pipeline.errors import SourceError, StageError

pytestmark = pytest.mark.spark

ITEMS = "item_id,title\n" + "".join(f"i{number},Item {number}\n" for number in range(12))
TOML = '[items]\npath = "items.csv"\n[events]\npath = "events.csv"\n'
TIMED = TOML + 'time = "time"\nlabel = "label"\n'


@pytest.fixture
def log(world):
    world.write("items.csv", ITEMS)
    return world


def seconds(row):
    return row["event_at"].timestamp()


def random_log(seed, num_rows=300, num_times=90):
    draw = random.Random(seed)
    return [
        (f"u{draw.randrange(15)}", f"i{draw.randrange(12)}", draw.randrange(1, num_times) * 50, draw.randrange(2))
        for _ in range(num_rows)
    ]


def write_log(world, rows):
    world.write("events.csv", "user_id,item_id,time,label\n" + "".join(f"{u},{i},{t},{y}\n" for u, i, t, y in rows))


def test_times_are_read_in_every_form_and_faulty_rows_say_why(log):
    good = {
        "881250949": 881250949.0,
        "881250949.5": 881250949.5,
        "8.81250949E8": 881250949.0,
        "1700000000123": 1700000000.123,
        "2024-02-03T04:05:06Z": datetime(2024, 2, 3, 4, 5, 6, tzinfo=UTC).timestamp(),
        "2024-02-03 04:05:06+02:00": datetime(2024, 2, 3, 2, 5, 6, tzinfo=UTC).timestamp(),
        "2024-02-03": datetime(2024, 2, 3, tzinfo=UTC).timestamp(),
    }
    bad = {
        "u,i1,12:30:00,1": "time cannot be parsed",
        "u,i1,yesterday,1": "time cannot be parsed",
        "u,i1,2024-13-45,1": "time cannot be parsed",
        "u,i1,1e300,1": "time cannot be parsed",
        "u,i1,,1": "no time",
        "u,i1,-5,1": "time before 1970",
        "u,i1,2090-01-01,1": "time after 2035-01-01",
        "u,i1,100,2": "label is no 0 or 1",
        "u,i1,100,": "no label",
        "u,i99,100,1": "unknown item",
        ",i1,100,1": "no user id",
        "u,,100,1": "no item id",
    }
    lines = [f"u{place},i{place},{text},{place % 2}" for place, text in enumerate(good)] + list(bad)
    log.write("events.csv", "user_id,item_id,time,label\n" + "\n".join(lines) + "\n")
    made = log.make(TIMED, "interactions", settings=("interactions.max_rejected_share=0.9",))
    assert sorted(map(seconds, made["interactions"].to_pylist())) == sorted(good.values())
    assert Counter(row["reason"] for row in made["interactions_rejected"]) == Counter(bad.values())


def test_events_after_the_last_day_are_another_days_business(log):
    times = ["2026-11-20T00:00:00Z", "2026-11-20T23:59:59.999Z", "2026-11-21T00:00:00Z", "2026-11-21T01:00:00+02:00"]
    times += [f"2026-11-19T{hour:02}:00:00Z" for hour in range(20)]
    lines = [f"u{place},i{place % 12},{time},1" for place, time in enumerate(times)]
    log.write("events.csv", "user_id,item_id,time,label\n" + "\n".join([*lines, "u,i99,2026-11-22,1"]) + "\n")
    settings = ('interactions.last_day="2026-11-20"',)
    made = log.make(TIMED, "interactions", settings=settings)
    assert {row["user_id"] for row in made["interactions"].to_pylist()} == {f"u{n}" for n in range(24)} - {"u2"}
    assert made["interactions_rejected"] == []
    manifest = log.plan(TIMED, *settings).dataset("interactions").manifest
    assert (manifest["rows_in"], manifest["rows_ok"], manifest["rows_skipped"]) == (25, 23, 2)


def test_a_day_before_the_log_says_so(log):
    log.write("events.csv", "user_id,item_id,time,label\nu1,i1,2026-11-20,1\nu2,i2,2026-11-21,1\n")
    with pytest.raises(StageError, match="all 2 rows were left out, for they are later than 2026-11-19"):
        log.make(TIMED, "interactions", settings=('interactions.last_day="2026-11-19"',))


def test_a_split_by_time_is_the_exact_quantile_and_keeps_one_moment_together(log):
    rows = random_log(1)
    write_log(log, rows)
    made = log.make(TIMED, "interactions")["interactions"].to_pylist()
    times = sorted(row[2] for row in rows)
    valid_from, test_from = times[240], times[270]
    for row in made:
        at = seconds(row)
        assert row["split"] == ("train" if at < valid_from else "valid" if at < test_from else "test")
    in_order = [(user, item, at) for user, item, at, _ in sorted(rows, key=lambda row: row[2])]
    assert [(row["user_id"], row["item_id"], seconds(row)) for row in made] == in_order
    assert [row["event_id"] for row in made] == list(range(300))


@pytest.mark.parametrize("events", ["positive", "all"])
def test_labels_of_users_with_too_short_a_history_only_feed_histories(log, events):
    rows = random_log(2)
    write_log(log, rows)
    toml = TIMED + f'[labels]\nmin_history = 4\n[histories]\nevents = "{events}"\n'
    for row in log.make(toml, "interactions")["interactions"].to_pylist():
        before = [r for r in rows if r[0] == row["user_id"] and r[2] < seconds(row) and (r[3] or events == "all")]
        assert (row["split"] == "history") == (len(before) < 4)


def test_without_times_the_order_of_files_and_rows_is_the_time(log):
    """Spark reads the largest file first and cuts it in pieces; neither may show."""
    sizes = {"b.csv": 3, "a.csv": 500, "c.csv": 40}
    for name, size in sizes.items():
        log.write(name, "user_id,item_id\n" + "".join(f"{name}-{row},i{row % 12}\n" for row in range(size)))
    toml = TOML.replace('"events.csv"', '["b.csv", "a.csv", "c.csv"]')
    made = log.make(toml, "interactions")["interactions"].to_pylist()
    assert [row["user_id"] for row in made] == [f"{name}-{row}" for name, size in sizes.items() for row in range(size)]
    assert [seconds(row) for row in made] == [float(row + 1) for row in range(543)]


def test_given_splits_are_taken_and_valid_is_carved_from_the_end_of_train(log):
    rows = sorted(random_log(3), key=lambda row: row[2])
    header = "user_id,item_id,time,label\n"
    log.write("old.csv", header + "".join(f"{u},{i},{t},{y}\n" for u, i, t, y in rows[:200]))
    log.write("new.csv", header + "".join(f"{u},{i},{t},{y}\n" for u, i, t, y in rows[200:]))
    toml = TIMED.replace('"events.csv"', '{ train = "old.csv", test = "new.csv" }')
    made = log.make(toml + '[labels]\nsplit = { by = "given" }\n', "interactions")["interactions"].to_pylist()
    assert Counter(row["split"] for row in made)["test"] == 100
    train = [seconds(row) for row in made if row["split"] == "train"]
    valid = [seconds(row) for row in made if row["split"] == "valid"]
    assert max(train) < min(valid)
    assert abs(len(valid) - 200 / 9) < 8
    log.write("events.csv", header)
    with pytest.raises(SourceError, match=r"needs the column in \[events\] split"):
        log.make(TIMED + '[labels]\nsplit = { by = "given" }\n', "interactions")


def test_an_empty_part_of_a_split_is_an_error_with_its_counts(log):
    write_log(log, [("u", "i1", 100, 1), ("v", "i2", 100, 0)])
    with pytest.raises((SourceError, StageError), match="leaves no row for train and valid"):
        log.make(TIMED, "interactions")


def test_listed_histories_come_before_the_users_first_row(log):
    rows = ['u,i1,100,1,"[i3, i4]"', "v,i2,200,0,i5 i6 i99", "u,i2,300,0,i7"]
    rows += [f"w{number},i1,{400 + number},1," for number in range(8)]
    log.write("events.csv", "user_id,item_id,time,label,met\n" + "\n".join(rows) + "\n")
    made = log.make(TIMED + 'history = "met"\n', "interactions", "histories")
    listed = [
        (row["user_id"], row["item_id"], seconds(row), row["is_click"])
        for row in made["interactions"].to_pylist()
        if row["split"] == "history"
    ]
    assert listed == [("u", "i3", 99.0, 1), ("u", "i4", 99.0, 1), ("v", "i5", 199.0, 1), ("v", "i6", 199.0, 1)]
    assert [row["reason"] for row in made["interactions_rejected"]] == ["history names an unknown item"]
    first = {row["user_id"]: row["item_ids"] for row in made["histories"].to_pylist()[::-1]}
    assert first["u"] == ["i3", "i4"]
    assert first["v"] == ["i5", "i6"]


@pytest.mark.parametrize("by", ["popularity", "uniform"])
def test_sampled_negatives_stand_beside_their_positive_and_are_never_one_themselves(log, by):
    rows = [row for row in random_log(4, num_rows=120) if row[1] != "i0"]
    rows = list({(user, item): (user, item, at, 1) for user, item, at, _ in rows}.values())
    write_log(log, rows)
    toml = TOML + f'time = "time"\n[labels]\nnegatives = {{ per_positive = 2, by = "{by}" }}\n'
    made = log.make(toml, "interactions")["interactions"].to_pylist()
    again = log.make(toml, "interactions", settings=("interactions.spark_partitions=9",), work="again")
    assert again["interactions"].to_pylist() == made
    clicked = defaultdict(set)
    for user, item, _, _ in rows:
        clicked[user].add(item)
    negatives = [row for row in made if not row["is_click"]]
    assert len(negatives) > 1.5 * len(rows)
    assert all(row["item_id"] not in clicked[row["user_id"]] for row in negatives)
    positives = {row["event_id"]: row for row in made if row["is_click"]}
    assert len(positives) == len(rows)
    for row in negatives:
        beside = positives[row["event_id"] // 3 * 3]
        assert [row[key] for key in ("user_id", "event_at", "split")] == [
            beside[key] for key in ("user_id", "event_at", "split")
        ]
    assert len({(row["event_id"] // 3, row["item_id"]) for row in made}) == len(made)
    assert ("i0" in {row["item_id"] for row in negatives}) == (by == "uniform")


def test_ratings_become_labels_and_a_split_by_user_keeps_each_user_whole(log):
    rows = random_log(5)
    log.write(
        "events.csv", "user_id,item_id,time,stars\n" + "".join(f"{u},{i},{t},{y * 3 + 1}.5\n" for u, i, t, y in rows)
    )
    toml = TOML + 'time = "time"\nlabel = { column = "stars", positive = ">= 4" }\n'
    made = log.make(toml + '[labels]\nsplit = { by = "user", fractions = [0.5, 0.3, 0.2] }\n', "interactions")
    table = made["interactions"].to_pylist()
    assert sum(row["is_click"] for row in table) == sum(row[3] for row in rows)
    assert all(len({row["split"] for row in table if row["user_id"] == user}) == 1 for user in {r[0] for r in rows})
