"""Shards written by Spark's tasks leave in Redis what this process leaves, and one that dies is written again."""

import os
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from feature_repo.generations import Generations
from feature_repo.publication import publish
from feature_repo.publish_command import listed
from feature_repo.redis_address import connect
from feature_repo.redis_server import running_redis
from pipeline.config import Publication
from pipeline.errors import ServiceError
from spark_jobs.publication import write_on_spark

pytestmark = [pytest.mark.redis, pytest.mark.feast, pytest.mark.spark, pytest.mark.slow]


@pytest.fixture(scope="module")
def spark() -> Iterator[Any]:
    from spark_jobs.session import session, stop

    yield session()
    stop()


def entity_keys(work: Path) -> dict[bytes, dict[bytes, bytes]]:
    with running_redis(work) as redis, connect(redis) as client:
        return {key: client.hgetall(key) for key in client.keys() if not key.startswith(b"msd:")}  # noqa: SIM118


def test_executors_leave_what_this_process_leaves(spark: Any, world: Any, build: ModuleType, tmp_path: Path):
    alone = build.make_world(tmp_path / "alone")
    alone.publish()
    items, users = world.item_features(), world.user_features()
    output = world.workspace.dataset("publication", build.GENERATION, None)
    output.folder.mkdir(parents=True)
    made = publish(Publication(shard_rows=7), output.folder, items, users, write=write_on_spark)
    assert entity_keys(world.workspace.root) == entity_keys(alone.workspace.root)
    assert made.details["online_keys"] == {"item": 40, "user": 12}
    assert made.details["bytes_sent"] > 0
    with running_redis(world.workspace.root) as redis, connect(redis) as client:
        assert Generations(client, "msd").written_shards(build.GENERATION) == set(range(8))
    assert [line.state for line in listed(world.workspace.root)] == ["active"]


def test_a_cluster_without_an_address_is_told():
    from spark_jobs import publication

    class Cluster:
        """A session's context as far as the check looks."""

        master = "spark://elsewhere:7077"
        sparkContext = property(lambda self: self)

    assert not os.environ.get("REDIS_URL")
    with pytest.raises(
        ServiceError, match=r"spark://elsewhere:7077 needs a Redis .* REDIS_URL is not set.*spark-env\.sh"
    ):
        publication._check_reach(Cluster())
