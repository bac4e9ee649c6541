"""Counts of the training window, and of nothing after it."""

from collections import Counter

import pytest

pytestmark = pytest.mark.spark

TOML = """
[items]
path = "items.csv"
category = "kind"
[events]
path = "events.csv"
time = "time"
label = "label"
[users]
path = "users.csv"
attributes = ["age"]
"""


def write(world, later_label):
    world.write("items.csv", "item_id,title,kind\n" + "".join(f"i{n},Item {n},{'ab'[n % 2]}\n" for n in range(8)))
    rows = [(f"u{n % 7}", f"i{(n * n) % 7}", 100 + n, n % 3 == 0) for n in range(100)]
    lines = [f"{u},{i},{t},{int(y) if t < 180 else later_label}\n" for u, i, t, y in rows]
    world.write("events.csv", "user_id,item_id,time,label\n" + "".join(lines))
    world.write("users.csv", "user_id,age\nu1,30\nu2,\nnobody,50\nu1,31\n,7\n")
    return [row for row in rows if row[2] < 180]


def test_counts_are_those_of_the_training_window(world):
    train = write(world, 1)
    made = world.make(TOML, "item_stats", "users", settings=("users.max_rejected_share=0.9",))
    table = {row["item_id"]: row for row in made["item_stats"].to_pylist()}
    exposures = Counter(row[1] for row in train)
    clicks = Counter(row[1] for row in train if row[3])
    assert set(table) == {f"i{number}" for number in range(8)}
    for item, row in table.items():
        peers = [key for key in table if int(key[1:]) % 2 == int(item[1:]) % 2]
        rate = sum(clicks[key] for key in peers) / sum(exposures[key] for key in peers)
        assert (row["exposures"], row["clicks"]) == (exposures[item], clicks[item])
        assert row["category_ctr"] == pytest.approx(rate)
        assert row["ctr_shrunk"] == pytest.approx((clicks[item] + 20 * rate) / (exposures[item] + 20))
        assert row["counted_until"].timestamp() == pytest.approx(179.000001, abs=1e-7)
    ranked = sorted(table.values(), key=lambda row: row["exposure_rank"])
    assert [row["exposure_rank"] for row in ranked] == list(range(1, 9))
    assert ranked == sorted(ranked, key=lambda row: (-row["exposures"], row["item_id"]))

    users = {row["user_id"]: dict(row["attributes"]) for row in made["users"].to_pylist()}
    assert users == {**{f"u{number}": {} for number in range(7)}, "u1": {"age": "30"}}
    assert sorted(row["reason"] for row in made["users_rejected"]) == ["no user id", "repeated user id"]


def test_labels_after_the_window_change_nothing(world):
    write(world, 1)
    before = world.make(TOML, "item_stats")["item_stats"].to_pylist()
    write(world, 0)
    assert world.make(TOML, "item_stats", work="again")["item_stats"].to_pylist() == before
