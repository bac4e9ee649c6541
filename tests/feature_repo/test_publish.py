"""What a publication leaves is what any Feast client reads, however often it runs and wherever it was killed."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import pytest

from feature_repo.redis_address import connect
from feature_repo.redis_server import running_redis
from feature_repo.store import quiet_feast, require_feast
from pipeline import schemas
from pipeline.errors import ServiceError, SpaceMismatch
from pipeline.storage import Workspace

pytestmark = [pytest.mark.redis, pytest.mark.feast, pytest.mark.slow]


@contextmanager
def fresh_client(home: Path) -> "Iterator[Any]":
    """What somebody else would do: FeatureStore on the folder, nothing of ours."""
    require_feast()
    from feast import FeatureStore

    with running_redis(home.parent), quiet_feast():
        yield FeatureStore(repo_path=str(home))


def redis_content(work: Path) -> dict[bytes, dict[bytes, bytes]]:
    with running_redis(work) as redis, connect(redis) as client:
        return {key: client.hgetall(key) for key in client.keys()}  # noqa: SIM118


def digests(*datasets: Any) -> dict[str, str]:
    return {f"{each.name}/{path}": value for each in datasets for path, value in each.manifest["files"].items()}


def test_any_feast_client_reads_the_latest_vectors(published: Any):
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
    assert joined["item_vectors__vector"][1].tolist() == world.item_vectors.table().column("vector")[3].as_py()


def test_the_receipt_says_what_redis_holds(published: Any, build: ModuleType):
    world, items, users = published
    assert items.details["space_id"] == users.details["space_id"] == build.SPACE
    assert items.details["dim"] == build.DIM
    assert items.details["online_rows"] == {"item_vectors_5eed0001": 40, "item_stats": 40}
    assert users.details["online_rows"] == {"user_vectors_5eed0001": 12, "user_histories": 12}
    assert users.details["offline_rows"] == {"user_vectors_5eed0001": 36, "user_histories": 180}
    assert users.manifest["rows_ok"] == 36
    assert items.details["redis"] == "own"
    assert not Path(items.details["repository"]).is_absolute()
    with running_redis(world.workspace.root) as redis, connect(redis) as client:
        sizes = {key: client.memory_usage(key) for key in client.keys()}  # noqa: SIM118
    assert len(sizes) == 52
    assert min(sizes.values()) <= items.details["online_bytes_per_key"] <= max(sizes.values())


def test_publishing_again_changes_nothing(world: Any):
    first = digests(world.publish_items(), world.publish_users())
    content = redis_content(world.workspace.root)
    again = digests(world.publish_items(), world.publish_users())
    assert again == first
    assert redis_content(world.workspace.root) == content


def test_new_vectors_for_the_same_moment_arrive(world: Any, build: ModuleType):
    world.publish_items()
    changed = build.item_vector_rows(40, salt=9)
    vectors = build.committed(world.workspace, "item_vectors", schemas.ITEM_VECTORS, changed, "changed")
    world.with_(item_vectors=vectors).publish_items("c" * 16)
    with fresh_client(world.home) as store:
        answer = store.get_online_features(
            features=["item_vectors_5eed0001:vector"], entity_rows=[{"item_id": row["item_id"]} for row in changed]
        ).to_dict()
    assert answer["vector"] == [row["vector"] for row in changed]


def test_two_spaces_live_side_by_side(world: Any, build: ModuleType):
    other = build.make_world(world.workspace.root, space=build.OTHER_SPACE, salt=5)
    world.publish_items(), world.publish_users()
    other.publish_items("c" * 16)
    with fresh_client(world.home) as store:
        assert store.get_feature_service("ctr").tags["space_id"] == build.SPACE, "one side alone activates nothing"
    other.publish_users("d" * 16)
    with fresh_client(world.home) as store:
        service = store.get_feature_service("ctr")
        assert service.tags["space_id"] == build.OTHER_SPACE
        for made, views in [(world, ("item_vectors_5eed0001",)), (other, ("item_vectors_5eed0002",))]:
            answer = store.get_online_features(
                features=[f"{view}:vector" for view in views], entity_rows=[{"item_id": "i005"}]
            ).to_dict()
            assert answer["vector"] == [made.item_vectors.table().column("vector")[5].as_py()]
        through = store.get_online_features(
            features=service, entity_rows=[{"item_id": "i005", "user_id": "u000"}], full_feature_names=True
        ).to_dict()
        assert through["item_vectors__vector"] == [other.item_vectors.table().column("vector")[5].as_py()]


def test_mixed_spaces_and_spoilt_vectors_publish_nothing(world: Any, build: ModuleType):
    rows = build.item_vector_rows(40)
    rows[30]["space_id"] = build.OTHER_SPACE
    mixed = build.committed(world.workspace, "item_vectors", schemas.ITEM_VECTORS, rows, "mixed")
    with pytest.raises(SpaceMismatch):
        world.with_(item_vectors=mixed).publish_items()
    assert not world.home.exists()
    assert not (world.workspace.root / "redis").exists()


def test_offline_only_needs_no_redis(world: Any, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("REDIS_URL", "redis://127.0.0.1:1/0")
    receipt = world.publish_items(online=False)
    assert "online_rows" not in receipt.details
    assert np.load(receipt.folder / "vectors.npy").shape == (40, 6)
    with pytest.raises(ServiceError):
        world.publish_users()


def test_a_password_reaches_redis_and_no_file(world: Any, monkeypatch: pytest.MonkeyPatch):
    with running_redis(world.workspace.root / "elsewhere") as other, connect(other) as client:
        client.config_set("requirepass", "s3cretword")
        monkeypatch.setenv("REDIS_URL", f"redis://:s3cretword@127.0.0.1:{other.port}/2")
        monkeypatch.setenv("MSD_REDIS_PASSWORD", "")
        receipt = world.publish_items()
        client.execute_command("AUTH", "s3cretword")
        assert client.info("keyspace")["db2"]["keys"] == 40
        client.config_set("requirepass", "")
    assert receipt.details["redis"] == "url"
    written = [path for path in world.workspace.root.rglob("*") if path.is_file()]
    assert not [path for path in written if b"s3cretword" in path.read_bytes()]


PUBLISH = """
import sys
from pathlib import Path
from feature_repo.publish import publish_items
from pipeline import schemas
from pipeline.config import Features
from pipeline.storage import Workspace
workspace = Workspace(Path(sys.argv[1]))
inputs = [workspace.dataset(name, fingerprint, schema) for name, fingerprint, schema in (
    ("item_vectors", sys.argv[2], schemas.ITEM_VECTORS), ("item_stats", sys.argv[3], schemas.ITEM_STATS))]
folder = workspace.root / "item_features" / ("a" * 16)
folder.mkdir(parents=True, exist_ok=True)
publish_items(Features(write_batch_rows=1), folder, item_vectors=inputs[0], item_stats=inputs[1])
"""


def big_world(build: ModuleType, root: Path) -> Any:
    workspace = Workspace(root)
    made = build.make_world(root)
    vectors = build.committed(workspace, "item_vectors", schemas.ITEM_VECTORS, build.item_vector_rows(900), "big")
    return made.with_(item_vectors=vectors)


def test_killed_amid_the_online_write_and_run_again_ends_the_same(build: ModuleType, tmp_path: Path):
    killed, undisturbed = big_world(build, tmp_path / "killed"), big_world(build, tmp_path / "undisturbed")
    work = killed.workspace.root
    arguments = [str(work), killed.item_vectors.fingerprint, killed.item_stats.fingerprint]
    process = subprocess.Popen([sys.executable, "-c", PUBLISH, *arguments], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not (work / "feast" / "registry.db").exists():
        assert process.poll() is None, "ended before anything was registered"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    with running_redis(work) as redis, connect(redis) as client:
        while client.dbsize() < 20:
            assert process.poll() is None, "ended before it could be killed"
            time.sleep(0.002)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        assert 20 <= client.dbsize() < 900
    assert killed.item_vectors.manifest is not None
    again = digests(killed.publish_items())
    assert again == digests(undisturbed.publish_items())
    assert redis_content(work) == redis_content(undisturbed.workspace.root)


def test_a_work_directory_may_have_any_name(build: ModuleType, tmp_path: Path):
    world = build.make_world(tmp_path / "my work [2024] #1")
    world.publish_items()
    with fresh_client(world.home) as store:
        joined = store.get_historical_features(
            entity_df=pd.DataFrame({"item_id": ["i003"], "event_timestamp": [build.at(3)]}),
            features=["item_vectors_5eed0001:vector_row"],
        ).to_df()
    assert joined["vector_row"].tolist() == [3]
