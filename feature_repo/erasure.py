"""A person's vectors and online values: rows of vectors.npy set to zero, and the one key all views of a user share."""

import json
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from feature_repo.definitions import USER_KEY
from feature_repo.feast_format import redis_keys
from feature_repo.offline import VECTORS_FILE
from feature_repo.redis_address import RedisKind
from feature_repo.site import connected, publishing
from feature_repo.store import project_name


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
    if not _is_published(root):
        return 0
    with connected(root) as (_, client):
        return int(bool(client.exists(_key(user_id))))


def erase_online(root: Path, user_id: str) -> None:
    """Deletes the user's key: with it the fields of every view and generation of this project, and nothing else.

    The work folder's own server writes its data to disk before this returns.

    Raises:
        ServiceError: Redis cannot be reached.
        BusyError: a publication is under way.
    """
    if not _is_published(root):
        return
    with publishing(root / "feast") as site:
        site.client.delete(_key(user_id))
        if site.redis.kind is RedisKind.OWN:
            site.client.save()


def online_place() -> str:
    """What the place is called in a receipt."""
    return f"Redis, project {project_name()}"


def reached_server() -> str:
    """Which kind of server this call reaches: `url` or `own`."""
    return str(RedisKind.URL if os.environ.get("REDIS_URL") else RedisKind.OWN)


def unreached_servers(root: Path) -> dict[str, str]:
    """Kind of a server that was published to and that this call does not reach → what to do about it."""
    published = {kind for receipt in _receipts(root) if (kind := _kind_of(receipt))}
    if (root / "redis" / "dump.rdb").is_file():
        published.add(str(RedisKind.OWN))
    told = {
        str(RedisKind.OWN): "the work folder's own Redis: unset REDIS_URL, then run the same msd erase again",
        str(
            RedisKind.URL
        ): "the Redis that REDIS_URL named at a publication: set it, then run the same msd erase again",
    }
    return {kind: told[kind] for kind in sorted(published - {reached_server()})}


def _is_published(root: Path) -> bool:
    return (root / "feast").is_dir()


def _receipts(root: Path) -> list[Path]:
    return [*root.glob("publication/*/manifest.json"), *root.glob("tuned_publication/*/manifest.json")]


def _kind_of(receipt: Path) -> str:
    return str(json.loads(receipt.read_text(encoding="utf-8"))["details"].get("redis", ""))


def _key(user_id: str) -> bytes:
    return redis_keys(USER_KEY.name, [user_id], project_name())[0]
