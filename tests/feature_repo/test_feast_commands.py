"""Feast's own commands in a work folder, and a repository of somebody's own on top of it: as in Feast's docs."""

import json
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from forked_children import ForkedChildren
from store_children import feast_command

from feature_repo.redis_address import connect
from feature_repo.redis_server import running_redis
from feature_repo.store import open_store, quiet_feast, write_settings

pytestmark = [
    pytest.mark.redis,
    pytest.mark.feast,
    pytest.mark.slow,
    pytest.mark.xdist_group("feast children"),
]

FEAST = Path(sys.executable).with_name("feast")
NEXT = "f" * 16
OWN_REPOSITORY = """
from datetime import timedelta

from feast import Entity, FeatureView, Field, FileSource, ValueType
from feast.types import Int64
from feature_repo.repository import objects

globals().update(objects("{work}"))

shop = Entity(name="shop", join_keys=["shop_id"], value_type=ValueType.STRING)
visits = FeatureView(
    name="visits",
    entities=[shop],
    ttl=timedelta(0),
    schema=[Field(name="count", dtype=Int64)],
    source=FileSource(name="visits_source", path="{work}/visits.parquet", timestamp_field="event_timestamp"),
)
"""


@pytest.fixture(scope="module")
def home(own_redis: None, build: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """WORK/feast of a world with two generations, the second one of int8 and not active; its Redis up."""
    world = build.make_world(tmp_path_factory.mktemp("commands") / "work")
    items, users = world.item_features(), world.user_features()
    world.publish(items=items, users=users)
    world.publish(NEXT, items=items, users=users, precision="int8", activate=False)
    with running_redis(world.workspace.root) as redis:
        write_settings(world.home, redis)
        yield world.home


def installed_feast(*arguments: str, cwd: Path) -> None:
    """Runs the command that a user has: with Feast's own checks of types, which msd switches off in its processes."""
    ended = subprocess.run([FEAST, *arguments], cwd=cwd, capture_output=True, text=True, timeout=240, check=False)
    assert ended.returncode == 0, ended.stderr[-3000:]


def registry_content(home: Path) -> dict[str, Any]:
    """Everything the registry holds, as Feast compares it, and what is online since when."""
    with quiet_feast():
        store = open_store(home)
        views = {view.name: view for view in store.list_feature_views()}
        return {
            "views": views,
            "intervals": {name: view.materialization_intervals for name, view in views.items()},
            "services": {service.name: service for service in store.list_feature_services()},
            "entities": {entity.name: entity for entity in store.list_entities()},
            "sources": {source.name: source for source in store.list_data_sources()},
        }


def redis_content(home: Path) -> dict[bytes, bytes | None]:
    with running_redis(home.parent) as redis, connect(redis) as client:
        return {key: client.dump(key) for key in client.keys()}  # noqa: SIM118


def test_feast_apply_in_a_work_folder_changes_nothing(home: Path, children: ForkedChildren):
    registry, online = registry_content(home), redis_content(home)
    assert len(registry["views"]) == len(registry["sources"]) == 10
    installed_feast("apply", cwd=home)
    assert registry_content(home) == registry
    assert redis_content(home) == online
    listed = children.call(feast_command, "feature-views", "list", cwd=home)
    assert all(name in listed for name in registry["views"])


@contextmanager
def served(children: ForkedChildren, home: Path, command: str) -> Iterator[str]:
    """`feast serve` or `feast ui` on a free port of this machine; yields its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    arguments = (command, "--host", "127.0.0.1", "--port", str(port))
    with children.running(feast_command, *arguments, cwd=home) as child:
        deadline = time.monotonic() + 180
        while time.monotonic() < deadline:
            assert child.returncode is None, f"feast {command} ended by itself"
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                time.sleep(0.05)
        yield f"http://127.0.0.1:{port}"


def test_feast_serve_answers_with_the_active_generation(home: Path, build: ModuleType, children: ForkedChildren):
    wanted = {
        "feature_service": "ctr",
        "entities": {"item_id": ["i003", "nothing"], "user_id": ["u001", "u002"]},
        "full_feature_names": True,
    }
    with served(children, home, "serve") as address:
        request = urllib.request.Request(
            f"{address}/get-online-features", json.dumps(wanted).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            told = json.load(answer)
    found = dict(zip(told["metadata"]["feature_names"], told["results"], strict=True))
    assert found["item_vectors__vector"]["values"][0] == pytest.approx(build.item_vector_rows(4)[3]["vector"])
    assert found["item_vectors__vector"]["values"][1] is None
    assert found["user_stats__exposures"]["values"] == [21, 22]


def test_feast_ui_shows_the_project(home: Path, children: ForkedChildren):
    with served(children, home, "ui") as address:
        with urllib.request.urlopen(f"{address}/projects-list.json", timeout=60) as answer:
            assert [each["id"] for each in json.load(answer)["projects"]] == ["msd"]
        with urllib.request.urlopen(address, timeout=60) as answer:
            assert answer.status == 200


def test_a_repository_of_ones_own_has_the_generations_beside_its_own_views(
    home: Path, build: ModuleType, children: ForkedChildren, tmp_path: Path
):
    import pyarrow as pa
    import pyarrow.parquet as pq

    work = home.parent
    visits = {"shop_id": ["s1"], "count": [3], "event_timestamp": pa.array([build.at(0)], pa.timestamp("us", "UTC"))}
    pq.write_table(pa.table(visits), work / "visits.parquet")
    settings = (home / "feature_store.yaml").read_text().replace(str(home / "registry.db"), str(tmp_path / "own.db"))
    (tmp_path / "feature_store.yaml").write_text(settings)
    (tmp_path / "mine.py").write_text(OWN_REPOSITORY.format(work=work))
    before = redis_content(home)
    children.call(feast_command, "apply", cwd=tmp_path)
    assert redis_content(home) == before
    with quiet_feast():
        store = open_store(tmp_path)
        assert {view.name for view in store.list_feature_views()} == {*registry_content(home)["views"], "visits"}
        answer = store.get_online_features(
            features=store.get_feature_service("ctr"),
            entity_rows=[{"item_id": "i003", "user_id": "u001"}],
            full_feature_names=True,
        ).to_dict()
    assert answer["item_vectors__vector"][0] == pytest.approx(build.item_vector_rows(4)[3]["vector"])
