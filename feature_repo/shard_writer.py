"""Shards of chosen rows → Redis: vectors gathered and encoded, all views of a key in one command, read back, marked.

`write_shards` is what runs on a partition, in this process or in a Spark executor: it opens its own connections, holds
one shard in memory at a time, and marks a shard in Redis after its values, so that the marks share the data's fate.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from feature_repo.definitions import ViewPlan
from feature_repo.generations import Generations
from feature_repo.hash_rows import Shard
from feature_repo.offline import VECTORS_FILE
from feature_repo.online import differing_keys, write_views
from feature_repo.online_rows import TIME, entity_of, offline_rows, shard_files, view_rows
from feature_repo.redis_address import connect
from feature_repo.redis_link import RedisLink, link
from feature_repo.redis_server import running_redis
from feature_repo.vector_codec import Codec, Encoded
from pipeline.errors import ServiceError

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection
    from redis import Redis as Client

VERIFIED_ROWS = 5_000
"""Rows of each shard, evenly spaced, that are read back; all of a small one."""


@dataclass(frozen=True, kw_only=True)
class WriteJob:
    """What a partition needs to know, wherever it runs; the work folder must be one that all machines see."""

    work: Path
    folder: Path
    """Of the publication."""
    generation: str
    project: str
    plans: tuple[ViewPlan, ...]
    codec: Codec


@dataclass(frozen=True, kw_only=True)
class Written:
    """One shard that is in Redis."""

    number: int
    keys: int
    bytes_sent: int


def write_shards(job: WriteJob, numbers: Sequence[int]) -> Iterator[Written]:
    """Writes the numbered shards that are not marked as written.

    Args:
        job: of the generation.
        numbers: places in shard_files.

    Yields:
        Each shard once it is there, marked and found as written.

    Raises:
        ServiceError: the server cannot be reached, or gives back something else than was written.
    """
    files = shard_files(job.folder)
    with running_redis(job.work) as redis, connect(redis) as client, link(redis) as opened:
        generations = Generations(client, job.project)
        for number in numbers:
            yield _write_one(job, number, pq.read_table(files[number]), opened, generations)


def write_table(job: WriteJob, shard: pa.Table, opened: RedisLink, project: str) -> int:
    """Writes the rows of a shard under a project; returns the bytes sent."""
    return sum(write_views(opened, views, project) for views in _side_by_side(job, shard))


def views_of(job: WriteJob, shard: pa.Table) -> list[Shard]:
    """The rows of each view, its vectors encoded; a view only has rows of keys that it has something of."""
    made = []
    for plan in job.plans:
        if plan.key.name in shard.column_names:
            rows = view_rows(shard, plan)
            made.append(_encoded(job, plan, rows.filter(rows.column(TIME).is_valid())))
    return made


def as_offline(session: "DuckDBPyConnection", job: WriteJob, view: Shard) -> Shard:
    """The same keys' rows as the offline files hold them, whose vectors are read there and not from vectors.npy."""
    rows = offline_rows(session, view.plan, view.rows)
    if "vector" not in rows.column_names:
        return Shard(plan=view.plan, rows=rows, encoded=None)
    vectors = rows.column("vector").combine_chunks()
    vectors_ND = vectors.flatten().to_numpy(zero_copy_only=False).reshape(-1, job.codec.dim).astype(np.float32)
    return Shard(plan=view.plan, rows=rows.drop_columns(["vector"]), encoded=job.codec.encode(vectors_ND))


def _write_one(job: WriteJob, number: int, shard: pa.Table, opened: RedisLink, generations: Generations) -> Written:
    sent = write_table(job, shard, opened, job.project)
    _read_back(job, shard, opened)
    generations.mark_written(job.generation, number)
    return Written(number=number, keys=shard.num_rows, bytes_sent=sent)


def _read_back(job: WriteJob, shard: pa.Table, opened: RedisLink) -> None:
    count = min(VERIFIED_ROWS, shard.num_rows)
    sample = shard.take(np.linspace(0, shard.num_rows - 1, count).astype(np.int64))
    for view in views_of(job, sample):
        refuse_differing(view, opened, job.project, "written")


def refuse_differing(view: Shard, opened: RedisLink, project: str, what: str) -> None:
    """Raises ServiceError where Redis holds something else than a view's rows.

    Args:
        view: the rows it should hold.
        opened: to the server.
        project: whose keys they are.
        what: where the rows come from, for the message.
    """
    differing = differing_keys(opened, view.plan, view.rows, view.encoded, project)
    if len(differing):
        named = ", ".join(differing.slice(0, 5).to_pylist())
        raise ServiceError(
            f"{view.plan.name}: {len(differing):,} of {view.rows.num_rows:,} sampled keys read back from"
            f" Redis differently than {what}: {named}; another program may be writing there, or the server drops keys"
            " (see its maxmemory-policy); publish again: msd publish"
        )


def _side_by_side(job: WriteJob, shard: pa.Table) -> Iterator[list[Shard]]:
    """Groups of rows that have something in the same views: each group's views go out in one command per key."""
    plans = [plan for plan in job.plans if plan.key.name in shard.column_names]
    present_NV = np.stack([view_rows(shard, plan).column(TIME).is_valid().to_numpy() for plan in plans], axis=1)
    patterns_N = present_NV @ (1 << np.arange(len(plans)))
    for pattern in np.unique(patterns_N):
        rows = shard.filter(pa.array(patterns_N == pattern))
        chosen = [plan for bit, plan in enumerate(plans) if pattern >> bit & 1]
        if chosen:
            yield [_encoded(job, plan, view_rows(rows, plan)) for plan in chosen]


def _encoded(job: WriteJob, plan: ViewPlan, rows: pa.Table) -> Shard:
    rows = rows.combine_chunks()
    if "vector" not in plan.file_schema.names:
        return Shard(plan=plan, rows=rows, encoded=None)
    return Shard(plan=plan, rows=rows, encoded=gather(plan, job.codec, rows.column("vector_row")))


def gather(plan: ViewPlan, codec: Codec, numbers: pa.ChunkedArray) -> Encoded:
    """The vectors of some rows of a dataset of features, encoded."""
    vectors_ND = np.load(plan.files.parent / VECTORS_FILE, mmap_mode="r")
    return codec.encode(np.ascontiguousarray(vectors_ND[numbers.to_numpy()]))


def mean_memory(client: "Client", keys: Sequence[bytes]) -> float:
    """Bytes a key takes on the server, as it says itself; of those that are there."""
    with client.pipeline(transaction=False) as pipe:
        for key in keys:
            pipe.memory_usage(key, samples=0)
        sizes = [size for size in pipe.execute() if size is not None]
    return float(sum(sizes) / max(len(sizes), 1))


def entity_plans(job: WriteJob, entity: str) -> list[ViewPlan]:
    """The views of an entity."""
    return [plan for plan in job.plans if entity_of(plan) == entity]
