"""Generations that nobody reads any more → gone, key by key, from Redis, the registry and the list of known ones.

A generation's keys are known from the files its rows were written from, so that nothing is searched. Where these files
are gone the server is scanned in small steps, and a key counts as the project's only if it parses as one to its last
byte: `rec` and `myrec` end alike.
"""

import struct
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from feature_repo.definitions import ViewPlan, item_plans, user_plans
from feature_repo.feast_format import key_head
from feature_repo.generation_token import token_of
from feature_repo.generations import Generation, Generations, State
from feature_repo.online import delete_fields
from feature_repo.online_rows import entities_of, entity_of, shard_files
from feature_repo.redis_link import link
from feature_repo.registry import remove_views
from feature_repo.repository import keep, registered
from feature_repo.site import Site
from feature_repo.store import open_store, project_name, quiet_feast

if TYPE_CHECKING:
    from redis import Redis as Client

SCAN_COUNT = 500
KEYS_PER_DELETE = 10_000
HOUR_SECONDS = 3600.0


def collect(site: Site, grace_hours: float) -> list[str]:
    """Removes what readers left longer ago than the grace period, and what was begun so long ago and never finished.

    Args:
        site: the server, its publishers' lock held.
        grace_hours: see Publication.grace_hours.

    Returns:
        Fingerprints of the generations removed, the oldest first.
    """
    generations = Generations(site.client, project_name())
    latest_start = time.time() - grace_hours * HOUR_SECONDS
    doomed = [each for each in generations.all() if not each.is_active and _is_over(each, latest_start)]
    for each in doomed:
        generations.doom(each.name, site.lock)
        delete_values(site, each)
        generations.forget(each.name)
    if doomed:
        _unregister(site.home, doomed)
    return [each.name for each in doomed]


def delete_values(site: Site, generation: Generation) -> None:
    """Takes every value of a generation out of Redis, and nothing else."""
    folder = site.home.parent / str(generation.facts["publication"])
    is_known = token_of(folder) == generation.token
    nowhere = Path("gone")
    plans = [
        *item_plans(nowhere, generation.space_id, generation.name),
        *user_plans(nowhere, generation.space_id, generation.name),
    ]
    with link(site.redis) as opened:
        for entity in entities_of(plans):
            views = [plan for plan in plans if entity_of(plan) == entity]
            for keys in _keys_of(folder, views[0]) if is_known else scanned_keys(site.client, views[0]):
                delete_fields(opened, views, keys, project_name())


def _is_over(generation: Generation, latest_start: float) -> bool:
    if generation.state is State.COLLECTING:
        return True
    if generation.state is State.WRITING:
        return generation.created_at <= latest_start
    return generation.left_at is not None and generation.left_at <= latest_start


def _keys_of(folder: Path, plan: ViewPlan) -> Iterator[pa.Array]:
    for path in shard_files(folder, entity_of(plan)):
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=KEYS_PER_DELETE, columns=[plan.key.name]):
                yield batch.column(0)


def scanned_keys(client: "Client", plan: ViewPlan) -> Iterator[pa.Array]:
    """Ids of all keys of the project and entity, from a scan that never holds more than a few."""
    project = project_name()
    head = key_head(plan.key.name)
    held: list[str] = []
    for key in client.scan_iter(match=head + b"*" + project.encode(), count=SCAN_COUNT):
        entity_id = _parse(key, head, project.encode())
        if entity_id is not None:
            held.append(entity_id)
        if len(held) >= KEYS_PER_DELETE:
            yield pa.array(held, pa.string())
            held = []
    if held:
        yield pa.array(held, pa.string())


def _parse(key: bytes, head: bytes, project: bytes) -> str | None:
    """The id in a key of the project; None where the key is another project's."""
    start = len(head) + 4
    if not key.startswith(head) or len(key) < start:
        return None
    (length,) = struct.unpack_from("<I", key, len(head))
    if key[start + length :] != project:
        return None
    try:
        return key[start : start + length].decode()
    except UnicodeDecodeError:
        # Ids are text: whoever wrote this key, it was no publication.
        return None


def _unregister(home: Path, doomed: Sequence[Generation]) -> None:
    names = {each.name for each in doomed}
    known, active = registered(home)
    gone = [each for each in known if each.generation in names]
    if not gone:
        return
    with quiet_feast():
        store = open_store(home)
        for each in gone:
            remove_views(store, [plan.name for plan in each.plans(home.parent)])
    keep(home, [each for each in known if each.generation not in names], active)
