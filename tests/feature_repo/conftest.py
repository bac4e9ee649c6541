"""Small committed datasets in a workspace, as the stages above feature_repo leave them."""

import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from forked_children import ForkedChildren

from feature_repo.features import write_items, write_users
from feature_repo.publication import publish
from feature_repo.redis_server import running_redis
from feature_repo.store import write_settings
from pipeline import schemas
from pipeline.config import Features, Publication
from pipeline.storage import Dataset, Outcome, Workspace, commit, write_shard

START = datetime(2024, 3, 1, tzinfo=UTC)
SPACE = "5eed0001cafe0000"
OTHER_SPACE = "5eed0002cafe0000"
DIM = 6
ITEMS, USERS, GENERATION = "a" * 16, "b" * 16, "e" * 16
LENIENT = {"min_effective_rank": 1.5}
"""Vectors of so few numbers never spread as an encoder's do."""


def at(hours: float) -> datetime:
    return START + timedelta(hours=hours)


@dataclass(frozen=True, kw_only=True)
class World:
    """A workspace with the datasets that features are made of; its methods do what the runner does."""

    workspace: Workspace
    item_vectors: Dataset
    item_stats: Dataset
    user_vectors: Dataset
    histories: Dataset
    user_stats: Dataset

    @property
    def home(self) -> Path:
        return self.workspace.root / "feast"

    @property
    def receipt(self) -> Dataset:
        """The publication GENERATION."""
        return self.workspace.dataset("publication", GENERATION, None)

    def item_features(self, fingerprint: str = ITEMS) -> Dataset:
        """Committed item_features; needs neither Feast nor Redis."""
        output = self._output("item_features", fingerprint)
        made = write_items(Features(), output.folder, item_vectors=self.item_vectors, item_stats=self.item_stats)
        commit(output, made, {})
        return output

    def user_features(self, fingerprint: str = USERS) -> Dataset:
        """Committed user_features; needs neither Feast nor Redis."""
        output = self._output("user_features", fingerprint)
        tables = {"user_vectors": self.user_vectors, "histories": self.histories, "user_stats": self.user_stats}
        commit(output, write_users(Features(), output.folder, **tables), {})
        return output

    def publish(
        self,
        fingerprint: str = GENERATION,
        *,
        items: Dataset | None = None,
        users: Dataset | None = None,
        **settings: Any,
    ) -> Dataset:
        """A committed publication of the two features, which are made where they are not given."""
        output = self._output("publication", fingerprint)
        items, users = items or self.item_features(), users or self.user_features()
        made = publish(Publication(**(LENIENT | settings)), output.folder, item_features=items, user_features=users)
        commit(output, made, {})
        return output

    def with_(self, **datasets: Dataset) -> "World":
        return replace(self, **datasets)

    def _output(self, name: str, fingerprint: str) -> Dataset:
        output = self.workspace.dataset(name, fingerprint, None)
        output.folder.mkdir(parents=True, exist_ok=True)
        return output


def committed(workspace: Workspace, name: str, schema: pa.Schema, rows: list[dict], label: str = "") -> Dataset:
    """Rows as a dataset in two shards, its fingerprint taken from the label."""
    dataset = workspace.dataset(name, (label or name).encode().hex().ljust(16, "0"), schema)
    dataset.folder.mkdir(parents=True, exist_ok=True)
    half = (len(rows) + 1) // 2
    for number, part in enumerate([rows[:half], rows[half:]]):
        if part:
            write_shard(dataset.folder / f"part-{number:05d}.parquet", pa.Table.from_pylist(part, schema=schema))
    commit(dataset, Outcome(rows_in=len(rows), rows_ok=len(rows)), {})
    return dataset


def vector(seed: int, dim: int = DIM) -> list[float]:
    return np.random.default_rng(seed).standard_normal(dim).astype(np.float32).tolist()


def item_vector_rows(count: int, space: str = SPACE, salt: int = 0) -> list[dict]:
    return [
        {
            "item_id": f"i{number:03d}",
            "vector": vector(1_000 * salt + number),
            "space_id": space,
            "content_hash": f"{number:016x}",
            "available_at": at(number % 7),
        }
        for number in range(count)
    ]


def item_stats_rows(count: int) -> list[dict]:
    return [
        {
            "item_id": f"i{number:03d}",
            "exposures": 10 * number,
            "clicks": number,
            "ctr_shrunk": 0.1,
            "category_ctr": 0.1,
            "exposure_rank": count - number,
            "first_seen_at": at(number % 7),
            "counted_until": at(100),
        }
        for number in range(count)
    ]


def user_stats_rows(users: int) -> list[dict]:
    return [
        {
            "user_id": f"u{user:03d}",
            "exposures": 20 + user,
            "clicks": user,
            "ctr_shrunk": 0.25,
            "first_event_at": at(0),
            "last_event_at": at(90) if user else None,
            "counted_until": at(100),
        }
        for user in range(users)
    ]


def user_vector_rows(users: int, snapshots: int, space: str = SPACE, salt: int = 0) -> list[dict]:
    return [
        {
            "user_id": f"u{user:03d}",
            "snapshot_at": at(10 * snapshot + user % 3),
            "vector": vector(50_000 + 1_000 * salt + user * snapshots + snapshot),
            "space_id": space,
            "content_hash": f"{user:08x}{snapshot:08x}",
        }
        for user in range(users)
        for snapshot in range(snapshots)
    ]


def history_rows(users: int, snapshots: int) -> list[dict]:
    return [
        {
            "user_id": f"u{user:03d}",
            "snapshot_at": at(2 * snapshot + user % 3),
            "num_events": snapshot,
            "item_ids": [f"i{k:03d}" for k in range(snapshot)],
            "event_times": [at(0)] * snapshot,
            "labels": [1] * snapshot,
            "is_embedded": snapshot % 5 == 0,
        }
        for user in range(users)
        for snapshot in range(snapshots)
    ]


def make_world(root: Path, space: str = SPACE, salt: int = 0) -> World:
    workspace = Workspace(root)
    label = f"{space[:8]}{salt}"
    item_rows, user_rows = item_vector_rows(40, space, salt), user_vector_rows(12, 3, space, salt)
    return World(
        workspace=workspace,
        item_vectors=committed(workspace, "item_vectors", schemas.ITEM_VECTORS, item_rows, label),
        item_stats=committed(workspace, "item_stats", schemas.ITEM_STATS, item_stats_rows(40), label),
        user_vectors=committed(workspace, "user_vectors", schemas.USER_VECTORS, user_rows, label),
        histories=committed(workspace, "histories", schemas.HISTORIES, history_rows(12, 15), label),
        user_stats=committed(workspace, "user_stats", schemas.USER_STATS, user_stats_rows(12), label),
    )


@pytest.fixture(scope="session")
def build() -> ModuleType:
    """The builders of this file, for tests that make datasets of their own."""
    return sys.modules[__name__]


@pytest.fixture(autouse=True, scope="session")
def own_redis() -> Iterator[None]:
    """Tests run on a work directory's own server unless they say otherwise."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("REDIS_URL", raising=False)
        patch.delenv("MSD_PROJECT", raising=False)
        yield


@pytest.fixture(scope="session")
def children(own_redis: None, tmp_path_factory: pytest.TempPathFactory) -> ForkedChildren:
    """Processes with Feast in them, to be killed, stopped or watched."""
    return ForkedChildren(tmp_path_factory.mktemp("children"))


@pytest.fixture
def world(tmp_path: Path) -> World:
    return make_world(tmp_path / "work")


@pytest.fixture(scope="session")
def featured(own_redis: None, tmp_path_factory: pytest.TempPathFactory) -> tuple[World, Dataset, Dataset]:
    """A world with its item_features and user_features, no Feast, no Redis; tests that use it only read."""
    made = make_world(tmp_path_factory.mktemp("featured") / "work")
    return made, made.item_features(), made.user_features()


@pytest.fixture(scope="session")
def published(own_redis: None, tmp_path_factory: pytest.TempPathFactory) -> tuple[World, Dataset, Dataset]:
    """A world published once, as the generation GENERATION; tests that use it only read."""
    made = make_world(tmp_path_factory.mktemp("published") / "work")
    items, users = made.item_features(), made.user_features()
    made.publish(items=items, users=users)
    return made, items, users


@pytest.fixture
def copied(published: tuple[World, Dataset, Dataset], tmp_path: Path) -> Iterator[World]:
    """A world of the test's own in which GENERATION is published and Redis is up: a copy of `published`.

    The views in its registry name files of the original, which hold the same.
    """
    original = published[0]
    shutil.copytree(original.workspace.root, tmp_path / "work")
    workspace = Workspace(tmp_path / "work")
    names = ("item_vectors", "item_stats", "user_vectors", "histories", "user_stats")
    tables: dict[str, Dataset] = {name: getattr(original, name) for name in names}
    world = World(
        workspace=workspace,
        **{name: workspace.dataset(name, table.fingerprint, table.schema) for name, table in tables.items()},
    )
    with running_redis(workspace.root) as redis:
        write_settings(world.home, redis)
        yield world
