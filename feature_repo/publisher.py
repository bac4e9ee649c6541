"""The part of a publication that happens on a server: choose, measure, register, write, compare, complete."""

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from feature_repo.collection import delete_values
from feature_repo.generation_token import token_of
from feature_repo.generations import Generation, Generations, State
from feature_repo.online_memory import bytes_per_key, check_fits, limits, server_memory
from feature_repo.online_rows import (
    Chosen,
    Wanted,
    choose_rows,
    chosen_before,
    count_wanted,
    duckdb_session,
    entities_of,
    num_rows,
    shard_files,
)
from feature_repo.pointer import Pointer
from feature_repo.redis_link import link
from feature_repo.repository import Registered
from feature_repo.shard_writer import WriteJob, Written, as_offline, refuse_differing, views_of
from feature_repo.site import Site
from feature_repo.store import project_name
from feature_repo.switching import note_intervals, register
from feature_repo.vector_codec import Codec
from pipeline.config import Publication
from pipeline.progress import progress

COMPARED_KEYS = 500
"""Keys of each entity whose values in Redis are compared with the offline files, evenly spaced over the shards."""
Write = Callable[[WriteJob, Sequence[int]], Iterator[Written]]
"""Who calls write_shards: this process, or a cluster's executors on parts of the shards."""


class Publisher:
    """One generation on its way into one server, held against other publishers."""

    def __init__(self, config: Publication, generation: Registered, codec: Codec, site: Site) -> None:
        """Nothing is touched yet.

        Args:
            config: of the publication.
            generation: as the registry will know it.
            codec: of its vectors, basis included.
            site: the server and the lock on it.
        """
        self.config = config
        self.generation = generation
        self.site = site
        work = site.home.parent
        self.job = WriteJob(
            work=work,
            folder=work / generation.publication,
            generation=generation.generation,
            project=project_name(),
            plans=tuple(generation.plans(work)),
            codec=codec,
        )
        self.stage = self.job.folder.parent.name
        self.generations = Generations(site.client, self.job.project)

    def publish(self, write: Write) -> dict[str, Any]:
        """Brings the generation to its end, not to readers.

        Args:
            write: who writes the shards.

        Returns:
            What belongs in the receipt.
        """
        started = time.monotonic()
        each = bytes_per_key(self.site.redis, self.job)
        chosen = chosen_before(self.job.folder) or self._choose(each)
        num_bytes = round(sum(each.get(entity, 0.0) * count for entity, count in chosen.keys.items()))
        known = {"publication": self.generation.publication, "keys": chosen.keys, "bytes": num_bytes}
        missing = self._missing()
        self._check_room(missing, chosen, num_bytes)
        self.generations.begin(self.generation.generation, self.generation.space_id, self.token, known)
        register(self.site.home, self.generation, self.site.redis)
        write_started = time.monotonic()
        written = self._write(missing, write)
        write_seconds = time.monotonic() - write_started
        compared = self._compare_with_offline()
        self._complete(known)
        return {
            "online_keys": chosen.keys,
            "online_rows": {plan.name: chosen.rows[plan.tags["kind"]] for plan in self.job.plans},
            "online_bytes": num_bytes,
            "bytes_per_key": {entity: round(size, 1) for entity, size in each.items()},
            "written_keys": sum(shard.keys for shard in written),
            "bytes_sent": sum(shard.bytes_sent for shard in written),
            "write_seconds": round(write_seconds, 3),
            "compared_with_offline": compared,
            "online_seconds": round(time.monotonic() - started, 3),
        }

    @property
    def token(self) -> str:
        """Of what is to be written; the rows must be chosen."""
        return token_of(self.job.folder)

    def _choose(self, each: dict[str, float]) -> Chosen:
        wanted = Wanted(shard_rows=self.config.shard_rows, active_days=self.config.active_days, max_keys={})
        if self.config.memory_mib:
            counted = count_wanted(self.job.plans, wanted, self.job.folder)
            most = limits(self.config.memory_mib, counted, each)
            wanted = Wanted(shard_rows=wanted.shard_rows, active_days=wanted.active_days, max_keys=most)
        return choose_rows(self.job.plans, wanted, self.job.folder)

    def _missing(self) -> list[int]:
        """Shards that are not on the server."""
        name = self.generation.generation
        before = self.generations.get(name)
        if before is not None and (before.token != self.token or before.state is State.COLLECTING):
            # Other rows, or another codec, under the same name: what is there goes, so that nothing of it stays behind.
            delete_values(self.site, before)
            self.generations.forget(name)
        written = self.generations.written_shards(name)
        return [number for number in range(len(shard_files(self.job.folder))) if number not in written]

    def _check_room(self, missing: Sequence[int], chosen: Chosen, num_bytes: int) -> None:
        files = shard_files(self.job.folder)
        left = sum(num_rows(files[number]) for number in missing)
        needed = num_bytes * left / max(sum(chosen.keys.values()), 1)
        check_fits(server_memory(self.site.redis), needed, self.stage)

    def _write(self, missing: Sequence[int], write: Write) -> list[Written]:
        files = shard_files(self.job.folder)
        written = []
        with progress(f"{self.stage} online", sum(num_rows(path) for path in files), "keys") as advance:
            advance(sum(num_rows(path) for number, path in enumerate(files) if number not in missing))
            for shard in write(self.job, missing):
                written.append(shard)
                advance(shard.keys)
        return written

    def _compare_with_offline(self) -> int:
        """Redis against the Parquet files, the vectors of which are read there and not from vectors.npy."""
        compared = 0
        with link(self.site.redis) as opened, duckdb_session(self.job.folder) as session:
            for entity in entities_of(self.job.plans):
                sample = self._sample(entity)
                for view in views_of(self.job, sample) if sample.num_rows else ():
                    expected = as_offline(session, self.job, view)
                    refuse_differing(expected, opened, self.job.project, "the offline store has")
                compared += sample.num_rows
        return compared

    def _sample(self, entity: str) -> pa.Table:
        files = shard_files(self.job.folder, entity)
        if not files:
            return pa.table({})
        each = -(-COMPARED_KEYS // len(files))
        tables = []
        for path in files[:: max(1, len(files) // COMPARED_KEYS)]:
            shard = pq.read_table(path)
            tables.append(shard.take(np.linspace(0, shard.num_rows - 1, min(each, shard.num_rows)).astype(np.int64)))
        return pa.concat_tables(tables)

    def _complete(self, known: dict[str, Any]) -> None:
        generation = self.generation
        pointer = Pointer(
            generation=generation.generation,
            space_id=generation.space_id,
            dim=self.job.codec.dim,
            codec=self.job.codec.to_json(),
            views={plan.tags["kind"]: plan.name for plan in self.job.plans},
            folders={"items": generation.items, "users": generation.users},
        )
        basis = self.job.codec.basis_bytes()
        self.generations.complete(generation.generation, pointer.to_bytes(), basis, known)
        older = [each.name for each in self.generations.all() if self._was_for_nobody(each)]
        self.generations.replaces(older)
        note_intervals(self.site.home, self.job.plans, self.job.folder)

    def _was_for_nobody(self, other: Generation) -> bool:
        """An earlier publication of the same stage that readers were never pointed at."""
        is_same = str(other.facts["publication"]).startswith(f"{self.stage}/")
        is_whole = other.state is State.COMPLETE and not other.is_active and other.left_at is None
        return is_same and is_whole and other.name != self.generation.generation
