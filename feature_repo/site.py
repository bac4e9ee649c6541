"""Where a publisher works: a server, the lock on the project there, and the work folder's Feast repository."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from feature_repo.publisher_lock import PublisherLock, sole_publisher
from feature_repo.redis_address import Redis, connect
from feature_repo.redis_server import running_redis
from feature_repo.store import project_name
from pipeline.errors import ServiceError

if TYPE_CHECKING:
    from redis import Redis as Client


@dataclass(frozen=True, kw_only=True)
class Site:
    """What is in the hands of the only publisher of a project."""

    home: Path
    """WORK/feast."""
    redis: Redis
    client: "Client"
    lock: PublisherLock


@contextmanager
def connected(work: Path) -> "Iterator[tuple[Redis, Client]]":
    """The server of a work folder, running for as long as the block does, and a client of it.

    Args:
        work: whose own server is used where REDIS_URL is not set.

    Raises:
        ServiceError: Redis cannot be reached, or refuses a command in the block.
    """
    from redis.exceptions import RedisError

    with running_redis(work) as redis:
        try:
            with connect(redis) as client:
                yield redis, client
        except RedisError as error:
            raise ServiceError(
                f"Redis at {redis.shown} refuses a command: {redis.masked(str(error))}; see that it runs and has memory"
                " left, and run the same command again"
            ) from error


@contextmanager
def publishing(home: Path) -> Iterator[Site]:
    """The server of a work folder, running and held against other publishers for as long as the block does.

    Args:
        home: WORK/feast.

    Raises:
        BusyError: another publisher of the project is at work.
        ServiceError: Redis cannot be reached.
    """
    with connected(home.parent) as (redis, client), sole_publisher(client, project_name(), home) as lock:
        yield Site(home=home, redis=redis, client=client, lock=lock)
