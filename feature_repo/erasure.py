"""A person's vectors and online values: rows of vectors.npy set to zero, and the one key all views of a user share."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from feature_repo.definitions import USER_KEY
from feature_repo.feast_format import redis_keys
from feature_repo.offline import VECTORS_FILE
from feature_repo.publisher_lock import sole_publisher
from feature_repo.redis_address import RedisKind, connect
from feature_repo.redis_server import running_redis
from feature_repo.store import project_name
from pipeline.errors import ServiceError

if TYPE_CHECKING:
    from redis import Redis as Client


def blank_vectors(folder: Path, rows: Sequence[int]) -> list[Path]:
    """Sets rows of a features folder's vectors.npy to zero, in place: readers who map the file see it at once.

    Returns:
        The file, where there is one.
    """
    path = folder / VECTORS_FILE
    if not path.is_file():
        return []
    vectors_ND = np.load(path, mmap_mode="r+", allow_pickle=False)
    vectors_ND[np.asarray(rows, dtype=np.int64)] = 0
    vectors_ND.flush()
    with path.open("rb") as file:
        os.fsync(file.fileno())
    return [path]


def count_online(root: Path, user_id: str) -> int:
    """1 where Redis holds values of the user, of whichever generation; 0 where not, or where nothing was published.

    Raises:
        ServiceError: Redis cannot be reached.
    """
    with _server(root) as client:
        return int(bool(client.exists(_key(user_id)))) if client is not None else 0


def erase_online(root: Path, user_id: str) -> None:
    """Deletes the user's key: with it the fields of every view and generation of this project, and nothing else.

    The work folder's own server writes its data to disk before this returns.

    Raises:
        ServiceError: Redis cannot be reached.
        BusyError: a publication is under way.
    """
    with _server(root) as client:
        if client is None:
            return
        with sole_publisher(client, project_name(), root / "feast"):
            client.delete(_key(user_id))
            if not os.environ.get("REDIS_URL"):
                client.save()


def online_place(root: Path) -> str:
    """What the place is called in a receipt."""
    return f"Redis, project {project_name()}"


@contextmanager
def _server(root: Path) -> "Iterator[Client | None]":
    """A client of the server that was published to; None where nothing was ever published from this work folder."""
    if not (root / "feast").is_dir():
        yield None
        return
    own = root / "redis" / "dump.rdb"
    if not os.environ.get("REDIS_URL") and not own.is_file() and _was_published_by_url(root):
        raise ServiceError(
            "this work folder was published to a Redis that REDIS_URL named, and REDIS_URL is not set; set it, then run"
            " the same msd erase again: it goes on where it was"
        )
    with running_redis(root) as redis, connect(redis) as client:
        yield client


def _was_published_by_url(root: Path) -> bool:
    kind = f'"redis": "{RedisKind.URL.value}"'
    receipts = [*root.glob("publication/*/manifest.json"), *root.glob("tuned_publication/*/manifest.json")]
    return any(kind in receipt.read_text(encoding="utf-8") for receipt in receipts)


def _key(user_id: str) -> bytes:
    return redis_keys(USER_KEY.name, [user_id], project_name())[0]
