"""What processes beside a feature store's test do; in a file of its own, since a child imports it by name."""

import sys
import time
from pathlib import Path

from feature_repo.publication import publish
from feature_repo.redis_address import connect
from feature_repo.redis_server import running_redis
from pipeline.config import Publication
from pipeline.storage import Workspace


def publish_generation(work: Path, name: str) -> None:
    """Publishes the features `c…` of items and `b…` of users in many small shards, uncommitted."""
    workspace = Workspace(work)
    output = workspace.dataset("publication", name, None)
    output.folder.mkdir(parents=True, exist_ok=True)
    items = workspace.dataset("item_features", "c" * 16, None)
    users = workspace.dataset("user_features", "b" * 16, None)
    publish(Publication(max_drift=3.0, min_effective_rank=1.0, shard_rows=25), output.folder, items, users)


def feast_command(*arguments: str) -> None:
    """The command `feast` with its arguments, in the current folder."""
    from feast.cli.cli import cli

    cli(list(arguments), prog_name="feast")


def hold_redis(work: Path, key: str) -> None:
    """Uses a work folder's own server until the folder has a file `released`; prints its port and process."""
    with running_redis(work) as redis, connect(redis) as client:
        client.set(key, "here")
        sys.stdout.write(f"{redis.port} {client.info('server')['process_id']}\n")
        while not (work / "released").exists():
            time.sleep(0.01)
