"""What a generation takes in Redis, measured on the server itself rather than reckoned.

A few hundred keys of each entity are written as they would be, under a project of the same length that nobody has, and
the server is asked for their size: encodings, allocator and version are those of the server that will hold the rest.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from feature_repo.feast_format import redis_keys
from feature_repo.online_rows import duckdb_session, entities_of, sample_rows
from feature_repo.redis_address import Redis, connect
from feature_repo.redis_link import link
from feature_repo.shard_writer import WriteJob, entity_plans, mean_memory, write_table
from pipeline.errors import StageError

if TYPE_CHECKING:
    from redis import Redis as Client

SAMPLE_KEYS = 300
_SCRATCH_SECONDS = 60
_SCRATCH_LETTER = "~"
"""May not stand in the name of a Feast project."""
MEBIBYTE = 1 << 20


@dataclass(frozen=True, kw_only=True)
class ServerMemory:
    """What the server says of itself, in bytes."""

    used: int
    limit: int
    """maxmemory; 0 where it sets none."""
    policy: str

    def told(self) -> str:
        """In words."""
        limit = f"of {self.limit / MEBIBYTE:,.1f} MiB ({self.policy})" if self.limit else "and sets no limit"
        return f"the server uses {self.used / MEBIBYTE:,.1f} MiB {limit}"


def bytes_per_key(redis: Redis, job: WriteJob) -> dict[str, float]:
    """Mean bytes of a key of each entity, all views of the generation together.

    Args:
        redis: the server that is published to.
        job: whose offline files the sampled keys come from.
    """
    scratch = _SCRATCH_LETTER * len(job.project)
    measured = {}
    with connect(redis) as client, link(redis) as opened, duckdb_session(job.folder) as session:
        for entity in entities_of(job.plans):
            plans = entity_plans(job, entity)
            rows: pa.Table = sample_rows(session, plans, SAMPLE_KEYS)
            if not rows.num_rows:
                continue
            keys = redis_keys(plans[0].key.name, rows.column(0).to_pylist(), scratch)
            try:
                write_table(job, rows, opened, scratch)
                _expire(client, keys)
                measured[entity] = mean_memory(client, keys)
            finally:
                client.delete(*keys)
    return measured


def server_memory(redis: Redis) -> ServerMemory:
    """What the server has and uses."""
    with connect(redis) as client:
        found: Any = client.info("memory")
    used, limit = (int(str(found.get(name, 0))) for name in ("used_memory", "maxmemory"))
    return ServerMemory(used=used, limit=limit, policy=str(found.get("maxmemory_policy", "")))


def limits(budget_mib: float, counted: Mapping[str, int], each: Mapping[str, float]) -> dict[str, int]:
    """Keys of each entity that fit a budget: users first, then items; empty without a budget.

    Args:
        budget_mib: of the generation; 0 for none.
        counted: keys that would go online.
        each: bytes per key.
    """
    if not budget_mib:
        return {}
    left = budget_mib * MEBIBYTE
    most = {}
    for entity in ("user", "item"):
        if entity in each:
            most[entity] = min(counted[entity], int(left / each[entity]))
            left -= most[entity] * each[entity]
    return most


def check_fits(memory: ServerMemory, needed: float, stage: str) -> None:
    """Refuses to start what the server cannot hold.

    Raises:
        StageError: maxmemory would be passed.
    """
    if memory.limit and memory.used + needed > memory.limit:
        room = max(memory.limit - memory.used, 0) / MEBIBYTE
        raise StageError(
            f"{stage} needs {needed / MEBIBYTE:,.1f} MiB of Redis, and {memory.told()}: {room:,.1f} MiB are free;"
            f" nothing was written; give the server more, free what readers have left with: msd publish --collect"
            f" --grace-hours 0, or publish less: --set {stage}.memory_mib={room:.0f}"
        )


def _expire(client: "Client", keys: Sequence[bytes]) -> None:
    """Whoever is killed here leaves nothing behind for long."""
    with client.pipeline(transaction=False) as pipe:
        for key in keys:
            pipe.expire(key, _SCRATCH_SECONDS)
        pipe.execute()
