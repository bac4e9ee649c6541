"""A changed catalogue and a grown log, made by the real runner in the same work folder: only what changed is read."""

import numpy as np
import pytest

pytestmark = [pytest.mark.spark, pytest.mark.slow]

NUM_ITEMS, NUM_USERS, EVENTS_EACH = 100, 50, 6
TOML = """
[items]
path = "items.csv"
text = ["title", "blurb"]
attributes = ["maker"]
[events]
path = "events.csv"
time = "at"
label = "label"
[users]
path = "users.csv"
attributes = ["town"]
"""
SETTINGS = (
    "histories.embed_min_events=1",
    "histories.embed_growth=1.0",
    "user_text_vectors.history_titles=3",
    "item_text_vectors.shard_rows=16",
    "user_text_vectors.shard_rows=64",
)
MADE = ("item_text_vectors", "user_text_vectors", "histories")
CHANGED = {"i40": "A kettle that sings"}


def write_world(world, titles=None, more_events=()):
    titles = titles or {}
    items = [
        f"i{n},{titles.get(f'i{n}', f'Thing no. {n}')},made of part {n % 7},maker {n % 5}" for n in range(NUM_ITEMS)
    ]
    # Two items with one text: they are read once.
    items[1] = items[0].replace("i0,", "i1,", 1)
    # Nobody acts on the last item, so that it can go without a trace in the log.
    events = [
        f"u{user},i{(user * 7 + n * 13) % (NUM_ITEMS - 1)},{1_700_000_000 + n * 10_000 + user * 60},{(user + n) % 2}"
        for n in range(EVENTS_EACH)
        for user in range(NUM_USERS)
    ]
    world.write("items.csv", "item_id,title,blurb,maker\n" + "\n".join(items) + "\n")
    world.write("events.csv", "user_id,item_id,at,label\n" + "\n".join([*events, *more_events]) + "\n")
    world.write("users.csv", "user_id,town\n" + "".join(f"u{n},town {n % 3}\n" for n in range(NUM_USERS)))


def make(world):
    tables = world.make(TOML, *MADE, settings=SETTINGS)
    plan = world.plan(TOML, *SETTINGS)
    return tables, {name: plan.dataset(name).details for name in MADE[:2]}


def by_key(table, *keys):
    """(content_hash, bytes of the vector) of each row."""
    rows = table.to_pylist()
    vectors = [np.array(row["vector"], np.float32).tobytes() for row in rows]
    return {tuple(row[key] for key in keys): (row["content_hash"], v) for row, v in zip(rows, vectors, strict=True)}


def test_only_changed_texts_and_users_with_new_events_are_read(world):
    write_world(world)
    before, read_first = make(world)
    items_before = by_key(before["item_text_vectors"], "item_id")
    users_before = by_key(before["user_text_vectors"], "user_id", "snapshot_at")
    assert read_first["item_text_vectors"]["texts_read"] == len({shown for shown, _ in items_before.values()}) == 99
    assert read_first["user_text_vectors"]["texts_read"] == len({shown for shown, _ in users_before.values()})

    # A new item, a changed one, one that went; a new event of one user.
    write_world(world, CHANGED, ["u7,i3,1700900000,1"])
    path = world.folder / "items.csv"
    lines = [line for line in path.read_text().splitlines() if not line.startswith("i99,")]
    path.write_text("\n".join([*lines, "new,A new thing,quite new,maker 9"]) + "\n")
    after, read_then = make(world)
    items_after = by_key(after["item_text_vectors"], "item_id")
    users_after = by_key(after["user_text_vectors"], "user_id", "snapshot_at")

    assert items_before.keys() - items_after.keys() == {("i99",)}
    assert {key for key, row in items_after.items() if row != items_before.get(key)} == {("i40",), ("new",)}
    assert read_then["item_text_vectors"]["texts_read"] == 2

    shown = {(row["user_id"], row["snapshot_at"]): row["item_ids"][-3:] for row in after["histories"].to_pylist()}
    touched = {key for key, titles in shown.items() if "i40" in titles}
    new = users_after.keys() - users_before.keys()
    moved = {key for key, row in users_after.items() if row != users_before.get(key)}
    assert {user for user, _ in new} <= {"u7"}
    assert new
    assert moved == new | (touched & users_after.keys())
    assert {users_after[key] for key in users_after.keys() - moved} <= set(users_before.values())
    known = {content for content, _ in users_before.values()}
    assert read_then["user_text_vectors"]["texts_read"] == len({users_after[key][0] for key in moved} - known) > 0
