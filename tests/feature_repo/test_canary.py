"""The canary against a real Redis: every way in which readers can get something else than was published."""

import json
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import ModuleType
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from feature_repo.definitions import ITEM_VECTORS, USER_HISTORIES, USER_VECTORS
from feature_repo.feast_format import field_name, redis_keys, time_field
from feature_repo.generations import Generations
from feature_repo.online_canary import Look, look
from feature_repo.pointer import Pointer, basis_key, pointer_key
from feature_repo.publish_command import write_anew
from feature_repo.redis_address import connect
from feature_repo.redis_server import running_redis
from feature_repo.repository import keep, registered
from pipeline import canary
from pipeline.config import Publication
from pipeline.errors import StageError
from pipeline.runner import Plan
from pipeline.settings import resolve
from pipeline.source import parse_source

pytestmark = [pytest.mark.redis, pytest.mark.feast, pytest.mark.slow]

GENERATION = "e" * 16
SOURCE = '[items]\npath = "log.csv"\n[events]\npath = "log.csv"\ntime = "time"\n'
BOUNDS = {
    "max_age_hours": 48.0, "max_data_age_hours": None, "min_coverage": 0.9, "min_user_coverage": 0.9,
    "min_hit_rate": 0.0, "rows": 1000, "scans": True,
}  # fmt: skip


@pytest.fixture(scope="module", params=["float32", "int8"])
def online(request: Any, own_redis: None, build: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A published world, its server and a client of it; whoever breaks something mends it."""
    world = build.make_world(tmp_path_factory.mktemp("online") / "work")
    items, users = world.item_features(), world.user_features()
    for features, name in ((items, "item_vectors"), (users, "user_vectors")):
        made_of = getattr(world, name)
        add(features, inputs={name: made_of.fingerprint})
        add(made_of, details={"texts": 40, "texts_read": 10})
    narrow = {"precision": request.param, "dimensions": 3 if request.param == "int8" else 0}
    receipt = world.publish(items=items, users=users, shard_rows=7, **narrow)
    (world.workspace.root / "log.csv").write_text("user_id,item_id,title,time\n")
    with running_redis(world.workspace.root) as redis, connect(redis) as client:
        yield world, client, (Publication(**narrow, min_effective_rank=1.5, shard_rows=7), receipt, (items, users))


def add(dataset: Any, **facts: Any) -> None:
    """More facts in a committed dataset's manifest."""
    (dataset.folder / "manifest.json").write_text(json.dumps(dataset.manifest | facts))


def examined(online: Any, date: str = "", **bounds: Any) -> dict[str, dict[str, Any]]:
    """The checks by name."""
    world = online[0]
    source = parse_source("made up", SOURCE, world.workspace.root)
    plan = Plan(
        workspace=world.workspace, source=source, settings=resolve("tiny"), date=date, fingerprints={"items": "0"}
    )
    found = canary.examine(plan, canary.Bounds(**(BOUNDS | bounds)))
    assert found["generation"] == GENERATION
    json.dumps(found, allow_nan=False)
    assert found["is_within_bounds"] == all(check["passed"] for check in found["checks"])
    return {check["name"]: check for check in found["checks"]}


def broken(online: Any, **bounds: Any) -> set[str]:
    """Names of the checks that did not pass."""
    return {name for name, check in examined(online, **bounds).items() if not check["passed"]}


def key_of(entity: str, name: str) -> bytes:
    return redis_keys(f"{entity}_id", [name], "msd")[0]


def fields_of(online: Any, kind: str) -> tuple[str, bytes, bytes]:
    """A view's name, and its fields of event time and of the vector or the row of a history."""
    known, _ = registered(online[0].home)
    view = next(plan.name for plan in known[0].plans(online[0].workspace.root) if plan.tags["kind"] == kind)
    return view, time_field(view), field_name(view, "history_row" if kind == USER_HISTORIES else "vector")


def test_all_is_well_after_a_publication(online: Any):
    checks = examined(online)
    assert all(check["passed"] for check in checks.values()), checks
    assert checks["equality"]["facts"]["compared"] == 2 * 40 + 3 * 12
    assert (checks["item_coverage"]["figure"], checks["user_coverage"]["figure"]) == (1, 1)
    assert checks["hit_rate"]["figure"] == 0.75
    assert checks["age"]["figure"] < 1
    assert checks["data_age"]["bound"] is None


def test_one_changed_byte_is_found_and_named(online: Any):
    _, _, vector = fields_of(online, ITEM_VECTORS)
    key, client = key_of("item", "i017"), online[1]
    whole = client.hget(key, vector)
    client.hset(key, vector, whole[:-1] + bytes([whole[-1] ^ 1]))
    checks = examined(online)
    client.hset(key, vector, whole)
    assert checks["equality"]["facts"]["differing"] == 1
    assert checks["equality"]["facts"]["missing"] == 0
    assert "items i017" in checks["equality"]["told"]
    assert broken(online) == set()


def test_a_deleted_user_is_found_and_not_named(online: Any):
    key, client = key_of("user", "u003"), online[1]
    kept = client.dump(key)
    client.delete(key)
    checks = examined(online, min_user_coverage=0.95)
    client.restore(key, 0, kept)
    assert checks["equality"]["facts"]["missing"] == 3
    assert not checks["user_coverage"]["passed"]
    assert checks["user_coverage"]["figure"] == pytest.approx(11 / 12)
    assert "u003" not in json.dumps(checks)


def test_a_view_missing_from_a_key_is_found(online: Any):
    _, moment, row = fields_of(online, USER_HISTORIES)
    key, client = key_of("user", "u005"), online[1]
    kept = client.dump(key)
    client.hdel(key, moment, row)
    checks = examined(online)
    client.restore(key, 0, kept, replace=True)
    views = checks["equality"]["facts"]["views"]
    assert views[USER_HISTORIES]["missing"] + views[USER_HISTORIES]["differing"] == 1
    assert views[USER_VECTORS]["missing"] + views[USER_VECTORS]["differing"] == 0


def test_a_key_that_will_expire_and_one_that_has_are_both_found(online: Any):
    key, client = key_of("item", "i004"), online[1]
    kept = client.dump(key)
    client.expire(key, 3600)
    assert broken(online) == {"expiry"}
    client.pexpire(key, 1)
    time.sleep(0.05)
    assert broken(online) == {"equality"}
    client.restore(key, 0, kept)


def test_a_key_that_nobody_published_is_found(online: Any):
    _, moment, _ = fields_of(online, ITEM_VECTORS)
    client = online[1]
    client.hset(key_of("item", "no such ☃"), moment, b"\x08\x01")
    client.hset(key_of("item", "of another view"), b"abcd", b"1")
    client.hset(redis_keys("item_id", ["of another project"], "other")[0], moment, b"\x08\x01")
    no_text = key_of("item", "abc").replace(b"abc", b"\xff\xfe\xfd")
    client.hset(no_text, moment, b"\x08\x01")
    checks = examined(online)
    assert checks["unknown_keys"]["facts"] == {"item": 1, "user": 0}
    assert "unknown_keys" not in examined(online, scans=False)
    for name, project in (("no such ☃", "msd"), ("of another view", "msd"), ("of another project", "other")):
        client.delete(redis_keys("item_id", [name], project)[0])
    client.delete(no_text)


def test_a_key_of_another_kind_in_the_place_of_one_of_ours_differs(online: Any):
    key, client = key_of("item", "i011"), online[1]
    kept = client.dump(key)
    client.delete(key)
    client.set(key, "something else")
    checks = examined(online)
    client.restore(key, 0, kept, replace=True)
    assert checks["equality"]["facts"]["differing"] == 2
    assert broken(online) == set()


def test_a_generation_of_last_week_and_old_data_are_too_old(online: Any):
    record, client = Generations(online[1], "msd").key("generation", GENERATION), online[1]
    made = client.hget(record, "created_at")
    client.hset(record, "created_at", time.time() - 7 * 24 * 3600)
    assert broken(online) == {"age"}
    assert broken(online, max_age_hours=8 * 24.0) == set()
    client.hset(record, "created_at", made)
    newest = datetime.fromtimestamp(
        look(online[0].workspace.root, Look(rows=5, seed=0, scans=False)).newest_event_at, UTC
    )
    assert broken(online, date=newest.date().isoformat()) == set()
    late = (newest + timedelta(days=4)).date().isoformat()
    assert broken(online, date=late) == {"data_age"}
    assert broken(online, date=late, max_data_age_hours=200.0) == set()
    assert broken(online, max_data_age_hours=48.0) == {"data_age"}


def test_a_hit_rate_and_a_coverage_below_their_floors_are_told(online: Any):
    assert broken(online, min_hit_rate=0.8) == {"hit_rate"}
    assert broken(online, min_hit_rate=0.75, min_coverage=1.0, min_user_coverage=1.0) == set()


def test_lookups_and_feast_told_of_two_generations_is_found(online: Any):
    world, client, _ = online
    known, active = registered(world.home)
    keep(world.home, known, "")
    checks = examined(online)
    keep(world.home, known, active)
    assert "Feast's service ctr names no generation" in checks["pointer"]["told"]
    stored = client.get(pointer_key("msd"))
    views = {kind: f"{view}x" for kind, view in Pointer.from_bytes(stored).views.items()}
    client.set(pointer_key("msd"), json.dumps(json.loads(stored) | {"views": views}))
    assert broken(online) == {"pointer"}
    client.set(pointer_key("msd"), stored)
    assert broken(online) == set()


def test_writing_anew_mends_what_was_lost_changed_and_set_to_expire(online: Any):
    client, (config, receipt, features) = online[1], online[2]
    _, _, vector = fields_of(online, ITEM_VECTORS)
    client.delete(key_of("item", "i001"), key_of("user", "u001"))
    client.hset(key_of("item", "i002"), vector, b"other")
    client.expire(key_of("item", "i003"), 3600)
    assert broken(online) == {"equality", "expiry"}
    write_anew(config, receipt, features)
    assert broken(online) == set()


def test_a_sample_is_other_keys_the_next_day(online: Any):
    root = online[0].workspace.root
    _, _, vector = fields_of(online, ITEM_VECTORS)
    key, client = key_of("item", "i030"), online[1]
    whole = client.hget(key, vector)
    client.hset(key, vector, whole[::-1])
    found = [look(root, Look(rows=18, seed=day, scans=False)).views[ITEM_VECTORS]["differing"] for day in range(6)]
    client.hset(key, vector, whole)
    assert set(found) == {0, 1}


def test_nothing_active_and_files_that_are_gone_name_the_command(online: Any, tmp_path: Path):
    world, client, _ = online
    stored = client.get(pointer_key("msd"))
    client.delete(pointer_key("msd"))
    with pytest.raises(StageError, match="run: msd publish"):
        examined(online)
    client.set(pointer_key("msd"), stored)
    rows = world.workspace.root / "publication" / GENERATION / "online"
    rows.rename(tmp_path / "online")
    with pytest.raises(StageError, match="publish again: msd publish"):
        examined(online)
    (tmp_path / "online").rename(rows)
    known, active = registered(world.home)
    keep(world.home, [], "")
    with pytest.raises(StageError, match="another work folder"):
        examined(online)
    keep(world.home, known, active)


def test_items_that_came_since_the_generation_was_made_lower_its_coverage(online: Any, tmp_path: Path):
    ids = [f"i{number:03d}" for number in range(50)] + ["i000"]
    pq.write_table(pa.table({"item_id": ids}), tmp_path / "part-00000.parquet")
    seen = look(online[0].workspace.root, Look(rows=5, seed=0, scans=False, catalogue=tmp_path))
    assert seen.coverage == {"items": 50, "items_with_vector": 40, "users": 12, "users_with_vector": 12}


def test_another_basis_in_redis_is_found(online: Any):
    key, client = basis_key("msd", GENERATION), online[1]
    kept = client.get(key)
    client.set(key, b"other")
    checks = examined(online)
    if kept is None:
        client.delete(key)
    else:
        client.set(key, kept)
    assert "the codec's basis in Redis is another one" in checks["pointer"]["told"]
    assert broken(online) == set()
