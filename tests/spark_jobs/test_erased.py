"""People who were erased are left out at the door, whatever the row looks like, and nothing of them is kept."""

import pytest

from pipeline.erased import read_erased, write_erased
from pipeline.runner import run

pytestmark = pytest.mark.spark

ITEMS = "item_id,title\ni1,one\ni2,two\n"
TOML = """
[items]
path = "items.csv"
[events]
path = "events.{ending}"
time = "time"
[users]
path = "users.jsonl"
attributes = ["town"]
"""
CSV = """user_id,item_id,time
u1,i1,100
u2,i1,150
 u1 ,i2,200
u10,i2,300
u1
u1,"i1",400,extra
u1,i1,yesterday
u3,i1,yesterday
""" + "".join(f"u10,i1,{at}\n" for at in range(400, 500, 10))
JSONL = """{"user_id": "u1", "item_id": "i1", "time": 100}
{"user_id": "u2", "item_id": "i1", "time": 150}
{"user_id": "u10", "item_id": "i2", "time": 300}
{"user_id": "u1", "item_id":
{"user_id": "u3", "item_id": "i1", "time": "yesterday"}
""" + "".join(f'{{"user_id": "u10", "item_id": "i1", "time": {at}}}\n' for at in range(400, 500, 10))
USERS = '{"user_id": "u1", "town": "u1 town"}\n{"user_id": "u2", "town": "x"}\n{"user_id": "u1"}\n{"user_id": ""}\n'


@pytest.mark.parametrize(("ending", "content", "theirs"), [("csv", CSV, 5), ("jsonl", JSONL, 2)])
def test_no_row_of_theirs_is_read_and_none_is_kept_as_rejected(world, ending, content, theirs):
    for name, text in (("items.csv", ITEMS), (f"events.{ending}", content), ("users.jsonl", USERS)):
        world.write(name, text)
    before = world.plan(TOML.format(ending=ending))
    root = before.workspace.root
    write_erased(root, "u1", read_erased(root))
    made = world.make(
        TOML.format(ending=ending), "interactions", "users", settings=("interactions.max_rejected_share=1.0",)
    )
    assert sorted(made["interactions"].column("user_id").to_pylist()) == [*["u10"] * 11, "u2"]
    assert sorted(made["users"].column("user_id").to_pylist()) == ["u10", "u2"]
    assert [row["reason"] for row in made["interactions_rejected"]] == ["time cannot be parsed"]
    assert [row["reason"] for row in made["users_rejected"]] == ["no user id"]
    plan = world.plan(TOML.format(ending=ending), "interactions.max_rejected_share=1.0")
    manifest = plan.dataset("interactions").manifest
    assert (manifest["rows_skipped"], manifest["rows_ok"], manifest["rows_rejected"]) == (theirs, 12, 1)
    assert plan.dataset("users").manifest["rows_skipped"] == 2
    for path in root.rglob("*"):
        assert not path.is_file() or b"u1 town" not in path.read_bytes(), path


def test_the_list_changes_the_fingerprints_from_interactions_on_and_only_where_it_holds_somebody(world):
    for name, text in (("items.csv", ITEMS), ("events.csv", CSV), ("users.jsonl", USERS)):
        world.write(name, text)
    toml = TOML.format(ending="csv")
    before = world.plan(toml)
    again = world.plan(toml)
    assert before.fingerprints == again.fingerprints
    write_erased(before.workspace.root, "u1", read_erased(before.workspace.root))
    after = world.plan(toml)
    same = {name for name in before.fingerprints if before.fingerprints[name] == after.fingerprints[name]}
    assert same == {"items"}
    write_erased(before.workspace.root, "u1", read_erased(before.workspace.root))
    assert world.plan(toml).fingerprints == after.fingerprints
    assert run(after, ["items"]) == ["items"]
