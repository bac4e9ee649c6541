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
def publishing(home: Path) -> Iterator[Site]:
    """The server of a work folder, running and held against other publishers for as long as the block does.

    Args:
        home: WORK/feast.

    Raises:
        BusyError: another publisher of the project is at work.
        ServiceError: Redis cannot be reached.
    """
    with (
        running_redis(home.parent) as redis,
        connect(redis) as client,
        sole_publisher(client, project_name(), home) as lock,
    ):
        yield Site(home=home, redis=redis, client=client, lock=lock)
