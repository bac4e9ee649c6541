"""Killed anywhere, two at once, a server that forgets: readers stay on one generation, and the next run finishes."""

import os
import random
import signal
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from forked_children import Child, ForkedChildren
from store_children import publish_generation

from feature_repo.generations import Generations, State
from feature_repo.lookup import vector_lookup
from feature_repo.publish_command import listed
from feature_repo.redis_address import connect
from feature_repo.redis_server import running_redis
from feature_repo.shard_writer import WriteJob, write_shards
from pipeline import schemas
from pipeline.errors import BusyError, ServiceError
from pipeline.storage import Workspace

pytestmark = [
    pytest.mark.redis,
    pytest.mark.feast,
    pytest.mark.slow,
    pytest.mark.xdist_group("feast children"),
]

ROWS = 2000
NEXT = "f" * 16


@pytest.fixture
def second(copied: Any, build: ModuleType) -> Any:
    """A world with one generation published and the features of the next, of many shards, committed."""
    world = copied
    rows, stats = build.item_vector_rows(ROWS, salt=9), build.item_stats_rows(ROWS)
    many = world.with_(
        item_vectors=build.committed(world.workspace, "item_vectors", schemas.ITEM_VECTORS, rows, "many"),
        item_stats=build.committed(world.workspace, "item_stats", schemas.ITEM_STATS, stats, "many"),
    )
    many.item_features("c" * 16)
    return many


Begun = Callable[..., AbstractContextManager[Child]]


@pytest.fixture
def begun(children: ForkedChildren) -> Begun:
    """Starts a publication in a process of its own, which does not outlive the block."""
    return lambda work, name=NEXT: children.running(publish_generation, work, name)


def read_whole(work: Path, tables: dict[str, Any]) -> str:
    """Reads every item of the active generation and holds it against its table; returns the generation."""
    with vector_lookup(work) as lookup:
        generation = lookup.pointer.generation
        table = tables[generation]
        vectors_ND, found_N = lookup.lookup("item", table.column("item_id").to_pylist())
        assert lookup.pointer.generation == generation
    assert found_N.all()
    assert np.array_equal(vectors_ND, np.array(table.column("vector").to_pylist(), dtype=np.float32))
    return generation


def killed_after(begun: Begun, work: Path, generations: Generations, shards: int) -> set[int]:
    """Begins a publication, kills it once so many shards are there, and says which are."""
    with begun(work) as child:
        while child.returncode is None and len(generations.written_shards(NEXT)) < shards:
            time.sleep(0.001)
    return generations.written_shards(NEXT)


def test_killed_at_random_moments_readers_stay_on_one_generation(
    second: Any, copied: Any, build: ModuleType, begun: Begun
):
    work = second.workspace.root
    tables = {build.GENERATION: copied.item_vectors.table(), NEXT: second.item_vectors.table()}
    draw = random.Random(7)
    with running_redis(work) as redis, connect(redis) as client:
        generations = Generations(client, "msd")
        first = killed_after(begun, work, generations, draw.randrange(1, 20))
        assert 0 < len(first) < ROWS / 25
        assert read_whole(work, tables) == build.GENERATION
        again = killed_after(begun, work, generations, len(first) + draw.randrange(1, 20))
        assert first < again, "it goes on where it was"
        assert read_whole(work, tables) in tables
        # A server that lost its data has lost the marks of it, and everything is written anew.
        client.flushall()
        with begun(work) as child:
            said = child.ended()
            assert child.returncode == 0, said
        assert read_whole(work, tables) == NEXT
        assert [each.state for each in generations.all()] == [State.COMPLETE]


def test_two_publishers_at_once_one_wins_and_one_says_so(second: Any, copied: Any, begun: Begun):
    work = second.workspace.root
    with running_redis(work) as redis, connect(redis) as client, begun(work) as child:
        while child.returncode is None and not client.exists("msd:{msd}:publisher"):
            time.sleep(0.001)
        # Held still, so that it is surely at work when the other one comes.
        os.kill(child.pid, signal.SIGSTOP)
        with pytest.raises(BusyError, match=f"at work .process {child.pid} on .*, since 20"):
            copied.publish("d" * 16)
        os.kill(child.pid, signal.SIGCONT)
        said = child.ended()
        assert child.returncode == 0, said
    assert [(line.generation[0], line.state) for line in listed(work)] == [("e", "previous"), ("f", "active")]


def test_a_stopped_publisher_whose_lock_went_to_another_cannot_switch(
    second: Any, copied: Any, build: ModuleType, begun: Begun
):
    work = second.workspace.root
    with running_redis(work) as redis, connect(redis) as client, begun(work) as child:
        generations = Generations(client, "msd")
        while child.returncode is None and len(generations.written_shards(NEXT)) < 5:
            time.sleep(0.001)
        os.kill(child.pid, signal.SIGSTOP)
        # Its lock has run out meanwhile, and a publisher on another machine has taken it.
        client.set("msd:{msd}:publisher", '{"token": "other", "host": "elsewhere", "pid": 1, "since": "today"}')
        os.kill(child.pid, signal.SIGCONT)
        said = child.ended()
        assert child.returncode != 0
        assert "the publisher's lock went to another publisher" in said
        assert client.get("msd:{msd}:publisher"), "the other's lock is not released"
        assert read_whole(work, {build.GENERATION: copied.item_vectors.table()}) == build.GENERATION
        with pytest.raises(BusyError, match="process 1 on elsewhere, since today"):
            copied.publish("9" * 16)


def test_values_that_another_program_changes_are_found(world: Any, build: ModuleType):
    def write_and_meddle(job: WriteJob, numbers: Any) -> Any:
        yield from write_shards(job, numbers)
        with running_redis(job.work) as redis, connect(redis) as client:
            for key in client.keys(b"*i00*"):
                for name in client.hkeys(key):
                    client.hset(key, name, b"spoilt")

    from feature_repo.publication import publish
    from pipeline.config import Publication

    workspace: Workspace = world.workspace
    output = workspace.dataset("publication", NEXT, None)
    output.folder.mkdir(parents=True)
    items, users = world.item_features(), world.user_features()
    with pytest.raises(ServiceError, match=r"item_.* 10 of 40 sampled keys .* than the offline store has: i000"):
        publish(Publication(), output.folder, items, users, write=write_and_meddle)
    with running_redis(workspace.root) as redis, connect(redis) as client:
        assert [each.state for each in Generations(client, "msd").all()] == [State.WRITING]
        assert client.get("msd:{msd}:active") is None
