"""What a publication leaves is what any Feast client reads: whole generations, one after the other, side by side."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import pytest

from feature_repo.feast_format import redis_keys
from feature_repo.features import write_tuned_items, write_tuned_users
from feature_repo.generations import Generations, State
from feature_repo.lookup import vector_lookup
from feature_repo.publication import publish_tuned
from feature_repo.publish_command import activate, collect_now, ensure_published, listed, rollback
from feature_repo.redis_address import connect
from feature_repo.redis_server import running_redis
from feature_repo.store import quiet_feast, require_feast
from pipeline import schemas
from pipeline.config import Features, Publication, TunedPublication
from pipeline.errors import ServiceError, SpaceMismatch, StageError, UsageError
from pipeline.storage import commit

pytestmark = [pytest.mark.redis, pytest.mark.feast, pytest.mark.slow]

NEXT = "f" * 16


@contextmanager
def fresh_client(home: Path) -> "Iterator[Any]":
    """What somebody else would do: FeatureStore on the folder, nothing of ours."""
    require_feast()
    from feast import FeatureStore

    with running_redis(home.parent), quiet_feast():
        yield FeatureStore(repo_path=str(home))


def redis_content(work: Path) -> dict[bytes, dict[bytes, bytes]]:
    """All entity keys; the project's own keys hold times and are left out."""
    with running_redis(work) as redis, connect(redis) as client:
        return {key: client.hgetall(key) for key in client.keys() if not key.startswith(b"msd:")}  # noqa: SIM118


def test_any_feast_client_reads_the_latest_values(published: Any):
    world, _, _ = published
    vectors = {row["item_id"]: row for row in world.item_vectors.table().to_pylist()}
    users: dict[str, dict] = {}
    for number, row in enumerate(world.user_vectors.table().to_pylist()):
        if row["user_id"] not in users or row["snapshot_at"] > users[row["user_id"]]["snapshot_at"]:
            users[row["user_id"]] = row | {"row": number}
    with fresh_client(world.home) as store:
        rows = [{"item_id": f"i{k:03d}", "user_id": f"u{k % 12:03d}"} for k in range(40)]
        answer = store.get_online_features(
            features=store.get_feature_service("ctr"), entity_rows=rows, full_feature_names=True
        ).to_dict()
    for position, row in enumerate(rows):
        assert answer["item_vectors__vector"][position] == vectors[row["item_id"]]["vector"]
        assert answer["item_vectors__content_hash"][position] == vectors[row["item_id"]]["content_hash"]
        assert answer["item_vectors__vector_row"][position] == position
        assert answer["user_vectors__vector"][position] == users[row["user_id"]]["vector"]
        assert answer["user_vectors__vector_row"][position] == users[row["user_id"]]["row"]
        assert answer["item_stats__clicks"][position] == position
        assert answer["user_stats__exposures"][position] == 20 + position % 12
        assert answer["user_histories__num_events"][position] == 14


def test_any_feast_client_joins_point_in_time(published: Any, build: ModuleType):
    world, _, _ = published
    events = pd.DataFrame(
        {
            "item_id": ["i003", "i003", "i003", "missing"],
            "user_id": ["u001", "u001", "missing", "u001"],
            "event_timestamp": [build.at(2.9), build.at(3), build.at(99.9), build.at(100)],
        }
    )
    with fresh_client(world.home) as store:
        joined = store.get_historical_features(
            entity_df=events, features=store.get_feature_service("ctr"), full_feature_names=True
        ).to_df()
    joined = joined.sort_values("event_timestamp", ignore_index=True).astype(object)
    joined = joined.where(joined.notna(), None)
    assert joined["item_vectors__vector_row"].tolist() == [None, 3, 3, None]
    assert joined["user_vectors__vector_row"].tolist() == [3, 3, None, 5]
    assert joined["item_stats__exposures"].tolist() == [None, None, None, None]
    assert joined["user_stats__exposures"].tolist() == [None, None, None, 21]
    assert joined["item_vectors__vector"][1].tolist() == world.item_vectors.table().column("vector")[3].as_py()


def test_the_receipt_says_what_redis_holds(published: Any, build: ModuleType):
    world, _, _ = published
    receipt = world.workspace.dataset("publication", build.GENERATION, None)
    details = receipt.details
    assert details["space_id"] == build.SPACE
    assert details["online_keys"] == {"item": 40, "user": 12}
    assert set(details["online_rows"].values()) == {40, 12}
    assert receipt.manifest["rows_in"] == 40 + 40 + 36 + 180 + 12
    assert receipt.manifest["rows_ok"] == 40 + 40 + 12 + 12 + 12
    with running_redis(world.workspace.root) as redis, connect(redis) as client:
        for entity, key_name in (("item", "item_id"), ("user", "user_id")):
            ids = [f"{entity[0]}{number:03d}" for number in range(details["online_keys"][entity])]
            sizes = [client.memory_usage(key, samples=0) for key in redis_keys(key_name, ids, "msd")]
            assert sum(sizes) / len(sizes) == pytest.approx(details["bytes_per_key"][entity], rel=0.1)
    assert sorted(receipt.manifest["files"]) == [
        "basis.bin",
        "checks.json",
        "codec.json",
        "online/chosen.json",
        "online/items-00000.parquet",
        "online/users-00000.parquet",
    ]


def test_the_registry_says_what_it_points_at_and_what_is_online(published: Any, build: ModuleType):
    world, items, users = published
    with fresh_client(world.home) as store:
        views = {view.name: view for view in store.list_feature_views()}
        service = store.get_feature_service("ctr")
    assert service.tags == {"space_id": build.SPACE, "generation": build.GENERATION}
    assert {name for name in views} == {
        "item_vectors_5eed0001_eeeeeeee",
        "item_stats_eeeeeeee",
        "user_vectors_5eed0001_eeeeeeee",
        "user_histories_eeeeeeee",
        "user_stats_eeeeeeee",
    }
    for view in views.values():
        owner = items if "item" in view.name else users
        assert view.tags["features"] == f"{owner.name}/{owner.fingerprint}"
        assert view.description
        assert view.owner == "msd"
        ((first, last),) = view.materialization_intervals
        assert build.at(0) <= first <= last <= build.at(100)
    assert views["item_vectors_5eed0001_eeeeeeee"].tags["precision"] == "float32"


@contextmanager
def reading(work: Path, tables: dict[str, Any]) -> Iterator[list[str]]:
    """Reads every item over and over meanwhile; yields the generations seen, `mixture` where an answer was none."""
    wanted = {name: np.array(table.column("vector").to_pylist(), np.float32) for name, table in tables.items()}
    seen: list[str] = []
    ended = threading.Event()

    def read() -> None:
        with vector_lookup(work) as lookup:
            while not ended.is_set():
                vectors_ND, found_N = lookup.lookup("item", [f"i{k:03d}" for k in range(40)])
                name = lookup.pointer.generation
                seen.append(name if found_N.all() and np.array_equal(vectors_ND, wanted[name]) else "mixture")

    reader = threading.Thread(target=read)
    reader.start()
    try:
        yield seen
    finally:
        ended.set()
        reader.join()


def test_generations_live_side_by_side_and_readers_move_as_one(copied: Any, build: ModuleType):
    world, work, home, first = copied, copied.workspace.root, copied.home, copied.receipt
    changed = build.item_vector_rows(40, salt=9)
    vectors = build.committed(world.workspace, "item_vectors", schemas.ITEM_VECTORS, changed, "changed")
    other = world.with_(item_vectors=vectors)
    items = other.item_features("c" * 16)
    # The same texts under other vectors are what the check on drift is for.
    with pytest.raises(StageError, match="have moved by a mean cosine distance"):
        other.publish(NEXT, items=items)
    second = other.publish(NEXT, items=items, max_drift=3.0)
    tables = {first.fingerprint: world.item_vectors.table(), second.fingerprint: vectors.table()}

    def read_all() -> str:
        """Which generation lookups and Feast clients have, on every item."""
        with vector_lookup(work) as lookup:
            vectors_ND, found_N = lookup.lookup("item", [f"i{k:03d}" for k in range(40)])
            wanted = np.array(tables[lookup.pointer.generation].column("vector").to_pylist(), dtype=np.float32)
        assert found_N.all()
        assert np.array_equal(vectors_ND, wanted)
        with fresh_client(home) as store:
            service = store.get_feature_service("ctr")
            answer = store.get_online_features(
                features=service, entity_rows=[{"item_id": "i005", "user_id": "u000"}], full_feature_names=True
            ).to_dict()
        generation = service.tags["generation"]
        assert answer["item_vectors__vector"] == [tables[generation].column("vector")[5].as_py()]
        assert generation == lookup.pointer.generation
        return generation

    assert read_all() == NEXT
    with reading(work, tables) as seen:
        for _ in range(4):
            rollback(work)
    assert set(seen) == set(tables), "readers saw both, each of them whole"
    assert rollback(work) == first.fingerprint == read_all()
    assert activate(work, "ff") == NEXT == read_all()
    with pytest.raises(UsageError, match="no generation or space begins"):
        activate(work, "77")
    assert activate(work, build.SPACE[:6]) == NEXT, "of a space the latest"
    assert [(line.generation, line.state) for line in listed(work)] == [
        (first.fingerprint, "previous"),
        (NEXT, "active"),
    ]
    assert collect_now(work, 24.0) == []
    before = redis_content(work)
    assert collect_now(work, 0.0) == [first.fingerprint]
    after = redis_content(work)
    assert set(after) == set(before), "every key has the active generation's fields still"
    assert all(set(fields) < set(before[key]) for key, fields in after.items())
    assert read_all() == NEXT
    with pytest.raises(StageError, match="no generation to go back to"):
        rollback(work)
    with fresh_client(home) as store:
        assert all(view.name.endswith("_ffffffff") for view in store.list_feature_views())
        assert len(store.list_data_sources()) == 5


def test_a_committed_generation_is_brought_back_into_an_empty_redis(copied: Any):
    world, receipt = copied, copied.receipt
    items, users = world.item_features(), world.user_features()
    content = redis_content(world.workspace.root)
    again = Publication(**{"min_effective_rank": 1.5})
    assert not ensure_published(again, receipt, [items, users])
    with running_redis(world.workspace.root) as redis, connect(redis) as client:
        client.flushall()
        client.save()
    files = {path: path.read_bytes() for path in receipt.folder.rglob("*") if path.is_file()}
    assert listed(world.workspace.root)[0].state == "active, not in Redis: msd publish"
    assert ensure_published(again, receipt, [items, users])
    assert redis_content(world.workspace.root) == content
    assert {path: path.read_bytes() for path in receipt.folder.rglob("*") if path.is_file()} == files
    assert not ensure_published(again, receipt, [items, users])


def test_what_the_server_cannot_hold_is_not_begun(world: Any, build: ModuleType):
    rows, stats = build.item_vector_rows(1500), build.item_stats_rows(1500)
    many = world.with_(
        item_vectors=build.committed(world.workspace, "item_vectors", schemas.ITEM_VECTORS, rows, "many"),
        item_stats=build.committed(world.workspace, "item_stats", schemas.ITEM_STATS, stats, "many"),
    )
    items = many.item_features("c" * 16)
    with running_redis(world.workspace.root) as redis, connect(redis) as client:
        client.config_set("maxmemory", client.info("memory")["used_memory"] + 300_000)
        with pytest.raises(StageError, match=r"needs 0\.4 MiB of Redis.*--collect --grace-hours 0.*memory_mib="):
            many.publish(items=items)
        assert not [key for key in client.keys() if not key.startswith(b"msd:")]  # noqa: SIM118
        client.config_set("maxmemory", 1)
        with pytest.raises(ServiceError, match="used memory > 'maxmemory'"):
            many.publish(items=items)
        client.config_set("maxmemory", 0)
        many.publish(items=items)
    assert [line.state for line in listed(world.workspace.root)] == ["active"]


def test_under_a_budget_users_come_first_then_the_most_exposed_items(copied: Any):
    world, each = copied, copied.receipt.details["bytes_per_key"]
    budget = (12 * each["user"] + 10.5 * each["item"]) / 2**20
    receipt = world.publish("2" * 16, memory_mib=budget, grace_hours=0.0)
    kept = receipt.details["online_keys"]
    assert kept["user"] == 12
    assert 9 <= kept["item"] <= 11
    with vector_lookup(world.workspace.root) as lookup:
        _, found_N = lookup.lookup("item", [f"i{k:03d}" for k in range(40)])
    assert found_N.tolist() == [False] * (40 - kept["item"]) + [True] * kept["item"], "exposure grows with the number"
    assert receipt.manifest["rows_skipped"] == receipt.manifest["rows_in"] - receipt.manifest["rows_ok"] > 0


@pytest.mark.parametrize("settings", [{"precision": "int8"}, {"precision": "float16", "dimensions": 3}])
def test_narrow_vectors_are_bytes_to_feast_and_vectors_to_a_lookup(settings: dict, world: Any, build: ModuleType):
    world.publish(**settings)
    with vector_lookup(world.workspace.root) as lookup:
        vectors_ND, found_N = lookup.lookup("item", [f"i{k:03d}" for k in range(40)])
    wanted_ND = np.array(world.item_vectors.table().column("vector").to_pylist())
    cosines = (vectors_ND * wanted_ND).sum(1) / np.linalg.norm(vectors_ND, axis=1) / np.linalg.norm(wanted_ND, axis=1)
    assert found_N.all()
    assert np.median(cosines) > (0.6 if "dimensions" in settings else 0.999)
    with fresh_client(world.home) as store:
        service = store.get_feature_service("ctr")
        answer = store.get_online_features(
            features=service, entity_rows=[{"item_id": "i003", "user_id": "u001"}], full_feature_names=True
        ).to_dict()
        events = pd.DataFrame({"item_id": ["i003"], "user_id": ["u001"], "event_timestamp": [build.at(50)]})
        joined = store.get_historical_features(entity_df=events, features=service, full_feature_names=True).to_df()
    assert isinstance(answer["item_vectors__vector"][0], bytes)
    assert list(joined["item_vectors__vector"][0]) == pytest.approx(wanted_ND[3]), "offline keeps the whole vector"


def test_a_generation_nobody_reads_waits_until_it_is_activated(copied: Any):
    world, first = copied, copied.receipt
    world.publish(NEXT, activate=False)
    with vector_lookup(world.workspace.root) as lookup:
        assert lookup.pointer.generation == first.fingerprint
    assert [line.state for line in listed(world.workspace.root)] == ["active", "complete"]
    third = world.publish("9" * 16, activate=False, grace_hours=0.0)
    assert [line.generation for line in listed(world.workspace.root)] == [first.fingerprint, third.fingerprint], (
        "what nobody ever read is replaced by the next of its kind"
    )


def test_the_tuned_space_waits_beside_the_students(copied: Any, build: ModuleType):
    world, first = copied, copied.receipt
    other = build.make_world(world.workspace.root, space=build.OTHER_SPACE, salt=5)
    made = {}
    for name, digits in (("tuned_item_features", "c"), ("tuned_user_features", "d"), ("tuned_publication", "f")):
        made[name] = world.workspace.dataset(name, digits * 16, None)
        made[name].folder.mkdir(parents=True)
    items, users, receipt = made.values()
    commit(items, write_tuned_items(Features(), items.folder, other.item_vectors, other.item_stats), {})
    tables = (other.user_vectors, other.histories, other.user_stats)
    commit(users, write_tuned_users(Features(), users.folder, *tables), {})
    commit(receipt, publish_tuned(TunedPublication(), receipt.folder, items, users), {})
    lines = listed(world.workspace.root)
    assert [(line.made, line.state) for line in lines] == [("publication", "active"), ("tuned_publication", "complete")]
    assert activate(world.workspace.root, build.OTHER_SPACE[:8]) == NEXT
    with vector_lookup(world.workspace.root) as lookup:
        assert lookup.space_id == build.OTHER_SPACE
    assert rollback(world.workspace.root) == first.fingerprint


def test_offline_only_needs_no_redis(world: Any, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("REDIS_URL", "redis://127.0.0.1:1/0")
    receipt = world.publish(online=False)
    assert "online_rows" not in receipt.details
    assert [line.state for line in listed(world.workspace.root)] == ["active, offline"]
    with pytest.raises(ServiceError):
        world.publish(NEXT)


def test_mixed_spaces_publish_nothing(world: Any, build: ModuleType):
    other = build.make_world(world.workspace.root, space=build.OTHER_SPACE, salt=5)
    with pytest.raises(SpaceMismatch, match=build.OTHER_SPACE):
        world.publish(users=other.user_features("c" * 16))
    assert not world.home.exists()
    assert not (world.workspace.root / "redis").exists()


def test_another_space_replaces_the_first_and_is_compared_by_neighbours(copied: Any, build: ModuleType):
    world = copied
    other = build.make_world(world.workspace.root, space=build.OTHER_SPACE, salt=5)
    made = other.publish(NEXT, items=other.item_features("c" * 16), users=other.user_features("d" * 16))
    against = made.details["checks"]["item_features"]["against_active"]
    assert 0.0 <= against["neighbour_overlap"] < 0.6, "random neighbours: about a quarter of forty"
    assert "drift" not in against
    with vector_lookup(world.workspace.root) as lookup:
        assert (lookup.space_id, lookup.pointer.generation) == (build.OTHER_SPACE, NEXT)


def test_deleted_items_are_counted_and_gone(copied: Any, build: ModuleType):
    world = copied
    rows = build.item_vector_rows(40)[:37]
    vectors = build.committed(world.workspace, "item_vectors", schemas.ITEM_VECTORS, rows, "fewer")
    stats = build.committed(world.workspace, "item_stats", schemas.ITEM_STATS, build.item_stats_rows(37), "fewer")
    fewer = world.with_(item_vectors=vectors, item_stats=stats)
    receipt = fewer.publish(NEXT, items=fewer.item_features("c" * 16))
    assert receipt.details["checks"]["removed"]["item_id"] == {"count": 3, "some": ["i037", "i038", "i039"]}
    assert json.loads((receipt.folder / "checks.json").read_text())["removed"]["user_id"]["count"] == 0
    with vector_lookup(world.workspace.root) as lookup:
        _, found_N = lookup.lookup("item", ["i036", "i037", "i039"])
    assert found_N.tolist() == [True, False, False]


def test_other_rows_under_the_same_name_leave_nothing_behind(copied: Any):
    world, folder = copied, copied.receipt.folder
    before = redis_content(world.workspace.root)
    (folder / "online" / "chosen.json").unlink()
    (folder / "manifest.json").unlink()
    world.publish(memory_mib=0.002)
    after = redis_content(world.workspace.root)
    assert 0 < len(after) < len(before)
    assert all(before[key] == fields for key, fields in after.items())


def test_a_password_reaches_redis_and_no_file(world: Any, monkeypatch: pytest.MonkeyPatch):
    with running_redis(world.workspace.root / "elsewhere") as other, connect(other) as client:
        client.config_set("requirepass", "s3cretword")
        monkeypatch.setenv("REDIS_URL", f"redis://:s3cretword@127.0.0.1:{other.port}/2")
        monkeypatch.setenv("MSD_REDIS_PASSWORD", "")
        receipt = world.publish()
        client.execute_command("AUTH", "s3cretword")
        assert client.info("keyspace")["db2"]["keys"] >= 52
        client.config_set("requirepass", "")
    assert receipt.details["redis"] == "url"
    written = [path for path in world.workspace.root.rglob("*") if path.is_file()]
    assert not [path for path in written if b"s3cretword" in path.read_bytes()]


def test_projects_with_names_that_end_alike_share_a_server(world: Any, build: ModuleType, monkeypatch: Any):
    with running_redis(world.workspace.root / "shared") as shared, connect(shared) as client:
        monkeypatch.setenv("REDIS_URL", f"redis://127.0.0.1:{shared.port}/0")
        contents = {}
        for project in ("rec", "myrec"):
            monkeypatch.setenv("MSD_PROJECT", project)
            made = build.make_world(world.workspace.root / project)
            made.publish("1" * 16)
            made.publish("2" * 16)
            contents[project] = {key: client.dump(key) for key in client.keys() if key.endswith(b"myrec")}  # noqa: SIM118
        monkeypatch.setenv("MSD_PROJECT", "rec")
        # Without its files a generation's keys are found by a scan, which must not take `myrec` for `rec`.
        for path in (world.workspace.root / "rec" / "publication" / ("1" * 16)).rglob("*.json"):
            path.unlink()
        assert collect_now(world.workspace.root / "rec", 0.0) == ["1" * 16]
        assert {key: client.dump(key) for key in client.keys() if key.endswith(b"myrec")} == contents["myrec"]  # noqa: SIM118
        own = [key for key in client.keys() if key.endswith(b"rec") and not key.endswith(b"myrec")]  # noqa: SIM118
        assert len(own) == 52
        assert all(len([f for f in client.hkeys(key) if f.startswith(b"_ts:")]) <= 3 for key in own)
        assert [each.state for each in Generations(client, "rec").all()] == [State.COMPLETE]
        assert len(Generations(client, "myrec").all()) == 2


def test_a_work_directory_may_have_any_name(build: ModuleType, tmp_path: Path):
    world = build.make_world(tmp_path / "my work's [2024] #1")
    world.publish()
    with fresh_client(world.home) as store:
        joined = store.get_historical_features(
            entity_df=pd.DataFrame({"item_id": ["i003"], "event_timestamp": [build.at(3)]}),
            features=["item_vectors_5eed0001_eeeeeeee:vector_row"],
        ).to_df()
    assert joined["vector_row"].tolist() == [3]
