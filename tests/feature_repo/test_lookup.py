"""Lookups answer with the published vectors, say what is missing, and never mix spaces."""

from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from feature_repo.definitions import feature_service, feature_view, item_plans, user_plans
from feature_repo.lookup import VectorLookup, vector_lookup
from feature_repo.store import open_store, project_name, quiet_feast
from pipeline.errors import ConfigError, SpaceMismatch, StageError

pytestmark = [pytest.mark.redis, pytest.mark.feast]


def test_published_vectors_come_back_and_missing_ids_are_marked(published: Any, build: ModuleType):
    world, _, _ = published
    ids = ["i007", "nobody", "i000", "i007"]
    with vector_lookup(world.workspace.root) as lookup:
        vectors_ND, found_N = lookup.lookup("item", ids)
        none_ND, none_N = lookup.lookup("user", ["nobody"])
        empty_ND, empty_N = lookup.lookup("user", [])
    table = world.item_vectors.table().column("vector").to_pylist()
    assert lookup.space_id == build.SPACE
    assert found_N.tolist() == [True, False, True, True]
    assert vectors_ND.dtype == np.float32
    assert vectors_ND.tolist() == [table[7], [0.0] * build.DIM, table[0], table[7]]
    assert (len(none_ND), none_N.tolist()) == (1, [False])
    assert (len(empty_ND), len(empty_N)) == (0, 0)


def test_an_unpublished_space_is_named(published: Any):
    world, _, _ = published
    with pytest.raises(StageError, match="00000000deadbeef is not published"):
        VectorLookup(world.home, "00000000deadbeef")


def test_a_space_that_shares_its_first_digits_is_not_taken_for_it(published: Any):
    world, _, _ = published
    with pytest.raises(SpaceMismatch):
        VectorLookup(world.home, "5eed0001" + "f" * 8)


def test_nothing_published_is_said_with_the_next_command(tmp_path: Path):
    with pytest.raises(StageError, match="msd run item_features"), vector_lookup(tmp_path):
        pass
    assert not list(tmp_path.iterdir())


def test_item_and_user_vectors_of_two_spaces_are_refused(world: Any, build: ModuleType):
    world.publish_items(online=False), world.publish_users(online=False)
    near = build.SPACE[:8] + "ffffffff"
    with quiet_feast():
        store = open_store(world.home)
        vectors, histories = user_plans(world.workspace.root / "user_features" / ("b" * 16), near)
        stats = item_plans(world.workspace.root / "item_features" / ("a" * 16), build.SPACE)
        views = [feature_view(plan, online=False) for plan in (stats[0], vectors, histories, stats[1])]
        store.apply([*views, feature_service(build.SPACE, views)])
    with pytest.raises(SpaceMismatch, match="user_vectors_5eed0001"):
        VectorLookup(world.home)


@pytest.mark.parametrize("name", ["my project", "a-b", "_x", "x:y"])
def test_project_names_feast_does_not_take_are_refused(name: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MSD_PROJECT", name)
    with pytest.raises(ConfigError, match="MSD_PROJECT"):
        project_name()
