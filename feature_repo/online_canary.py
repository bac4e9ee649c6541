"""What readers get of the active generation, against its offline files: sampled keys, counts, ages; nothing is written.

A publication compares what it wrote when it wrote it. Afterwards a server can lose keys to its memory policy, another
program can write or set expiry, and files can be rewritten; so the same comparison is made again, on other keys each
time. Keys that expire are counted apart: nothing here sets an expiry, so whoever did takes vectors away later.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from feature_repo.collection import scanned_keys
from feature_repo.definitions import ITEM_STATS, USER_HISTORIES, ViewPlan
from feature_repo.feast_format import field_names, redis_keys, time_field
from feature_repo.feature_pair import open_codec
from feature_repo.generations import Generation, Generations
from feature_repo.online import differing_keys
from feature_repo.online_rows import TIME, duckdb_session, entities_of, entity_of, files_of, shard_files
from feature_repo.pointer import Pointer, basis_key, pointer_key
from feature_repo.redis_link import RedisLink, link
from feature_repo.repository import Registered, active_in
from feature_repo.shard_writer import WriteJob, as_offline, entity_plans, views_of
from feature_repo.site import connected
from feature_repo.store import project_name
from feature_repo.switching import known_as
from pipeline.errors import StageError

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection
    from redis import Redis as Client

SAMPLED_SHARDS = 20
NAMED_KEYS = 5
KEYS_AT_ONCE = 1000


@dataclass(frozen=True, kw_only=True)
class Seen:
    """The active generation, as it was found."""

    generation: str
    space_id: str
    created_at: float
    """When it was begun; epoch seconds."""
    features: tuple[Path, Path]
    """Folders of the features it was made of: items, users."""
    pointer_told: str
    """What is wrong with what lookups and Feast clients are told; empty where all agree."""
    views: dict[str, dict[str, Any]]
    """Kind of view → `compared`, `missing`, `differing`, and `some` items that are either."""
    expiring: int
    """Sampled keys that have an expiry."""
    unknown: dict[str, int] | None
    """Entity → keys that are online and not in the offline files; None where the server was not scanned."""
    newest_event_at: float | None
    """Epoch seconds of the latest time at which any value online became available."""
    coverage: dict[str, int]
    """`items`, `items_with_vector`, `users`, `users_with_vector`: of the catalogue and of active users, as online."""


@dataclass(frozen=True, kw_only=True)
class Look:
    """How closely it is looked at."""

    rows: int
    """Keys of each entity that are sampled."""
    seed: int
    scans: bool
    """Goes over all keys of the server, in small steps."""
    catalogue: Path | None = None
    """Folder of the items that should have a vector; None takes those the generation knows."""


def look(work: Path, how: Look) -> Seen:
    """Reads the active generation back.

    Args:
        work: the work folder it was published from.
        how: see Look.

    Raises:
        StageError: nothing is active, or another work folder published it, or its files are gone.
        ServiceError: Redis cannot be reached, or holds something that is no value of ours.
    """
    home = work / "feast"
    with connected(work) as (redis, client):
        generation = Generations(client, project_name()).active()
        if generation is None:
            raise StageError(f"no generation of the project {project_name()} is active; run: msd publish")
        here = known_as(home, generation.name)
        if here is None:
            raise StageError(
                f"the active generation {generation.name} was published from another work folder; run msd canary there"
            )
        job = _job(work, here)
        with link(redis) as opened, duckdb_session(job.folder) as session:
            counted = _compare(job, session, client, opened, how)
            coverage = _coverage(job, session, how.catalogue, here)
        return Seen(
            generation=generation.name,
            space_id=generation.space_id,
            created_at=generation.created_at,
            features=(work / here.items, work / here.users),
            pointer_told=_pointer_told(client, job, generation, active_in(home)),
            views=counted,
            expiring=sum(view.pop("expiring") for view in counted.values()),
            unknown=_unknown(job, client) if how.scans else None,
            newest_event_at=_newest(job),
            coverage=coverage,
        )


def _job(work: Path, here: Registered) -> WriteJob:
    folder = work / here.publication
    if not shard_files(folder):
        raise StageError(f"the files of the active generation are not at {folder}; publish again: msd publish")
    return WriteJob(
        work=work,
        folder=folder,
        generation=here.generation,
        project=project_name(),
        plans=tuple(here.plans(work)),
        codec=open_codec(folder),
    )


def _pointer_told(client: "Client", job: WriteJob, generation: Generation, named: Registered | None) -> str:
    """What lookups follow and what Feast's service names, against what was published."""
    stored: Any = client.get(pointer_key(job.project))
    pointer = Pointer.from_bytes(stored)
    basis: Any = client.get(basis_key(job.project, generation.name))
    wrong = []
    if pointer.views != {plan.tags["kind"]: plan.name for plan in job.plans} or pointer.codec != job.codec.to_json():
        wrong.append("the pointer names other views or another codec than were published")
    if (basis or b"") != job.codec.basis_bytes():
        wrong.append("the codec's basis in Redis is another one than was published")
    if named is None or named.generation != generation.name:
        wrong.append(f"Feast's service ctr names {named.generation if named else 'no generation'}")
    return "; ".join(wrong)


def _compare(
    job: WriteJob, session: "DuckDBPyConnection", client: "Client", opened: RedisLink, how: Look
) -> dict[str, dict[str, Any]]:
    """Sampled keys of every view, byte by byte."""
    counted = {}
    for entity in entities_of(job.plans):
        sample = _sample(job, entity, how)
        for view in views_of(job, sample) if sample.num_rows else ():
            expected = as_offline(session, job, view)
            gone_offline = view.rows.num_rows - expected.rows.num_rows
            bad = view.rows.column(0).slice(0, 0).combine_chunks()
            if expected.rows.num_rows:
                bad = differing_keys(opened, view.plan, expected.rows, expected.encoded, job.project)
            missing = _missing(client, view.plan, bad.to_pylist(), job.project)
            counted[view.plan.tags["kind"]] = {
                "compared": view.rows.num_rows,
                "missing": missing,
                "differing": len(bad) - missing + gone_offline,
                # Nothing that is told names users.
                "some": bad.slice(0, NAMED_KEYS).to_pylist() if entity_of(view.plan) == "item" else [],
                "expiring": 0,
            }
        first = next(plan for plan in job.plans if entity_of(plan) == entity)
        if sample.num_rows:
            keys = redis_keys(first.key.name, sample.column(first.key.name).to_pylist(), job.project)
            counted[first.tags["kind"]]["expiring"] = _expiring(client, keys)
    return counted


def _sample(job: WriteJob, entity: str, how: Look) -> pa.Table:
    """Keys of an entity, drawn anew with every seed; all of them where there are no more than wanted."""
    files = shard_files(job.folder, entity)
    generator = np.random.default_rng([how.seed, len(files)])
    if len(files) > SAMPLED_SHARDS:
        files = [files[number] for number in sorted(generator.choice(len(files), SAMPLED_SHARDS, replace=False))]
    each = -(-how.rows // max(len(files), 1))
    tables = []
    for path in files:
        shard = pq.read_table(path, partitioning=None)
        rows = generator.choice(shard.num_rows, min(each, shard.num_rows), replace=False)
        tables.append(shard.take(np.sort(rows)))
    return pa.concat_tables(tables) if tables else pa.table({})


def _missing(client: Any, plan: ViewPlan, ids: list[str], project: str) -> int:
    """How many of some keys have nothing of a view."""
    with client.pipeline(transaction=False) as pipe:
        for key in redis_keys(plan.key.name, ids, project):
            pipe.hmget(key, field_names(plan))
        return sum(all(value is None for value in values) for values in _answers(pipe) if values)


def _expiring(client: "Client", keys: list[bytes]) -> int:
    with client.pipeline(transaction=False) as pipe:
        for key in keys:
            pipe.ttl(key)
        # -1: no expiry; -2: no key.
        return sum(seconds >= 0 for seconds in pipe.execute())


def _unknown(job: WriteJob, client: "Client") -> dict[str, int]:
    """Keys online with fields of the generation that the offline files do not know."""
    found = {}
    for entity in entities_of(job.plans):
        plans = entity_plans(job, entity)
        files = shard_files(job.folder, entity)
        name = plans[0].key.name
        tables = [pq.read_table(path, columns=[name], partitioning=None) for path in files]
        known = pa.concat_tables([pa.table({name: pa.array([], pa.string())}), *tables]).column(name)
        found[entity] = sum(
            _num_with_fields(client, plans, ids.to_pylist(), job.project)
            for batch in scanned_keys(client, plans[0])
            for ids in _pieces(batch.filter(pc.invert(pc.is_in(batch, value_set=known))))
        )
    return found


def _pieces(ids: pa.Array) -> Iterator[pa.Array]:
    for start in range(0, len(ids), KEYS_AT_ONCE):
        yield ids.slice(start, KEYS_AT_ONCE)


def _num_with_fields(client: Any, plans: list[ViewPlan], ids: list[str], project: str) -> int:
    with client.pipeline(transaction=False) as pipe:
        for key in redis_keys(plans[0].key.name, ids, project):
            pipe.hmget(key, [time_field(plan.name) for plan in plans])
        return sum(any(value is not None for value in values) for values in _answers(pipe) if values)


def _answers(pipe: Any) -> Iterator[list[Any]]:
    """What each key's fields hold; nothing at all where the key is no hash."""
    for answer in pipe.execute(raise_on_error=False):
        is_other_kind = isinstance(answer, Exception) and str(answer).startswith("WRONGTYPE")
        if isinstance(answer, Exception) and not is_other_kind:
            raise answer
        yield [] if is_other_kind else answer


def _newest(job: WriteJob) -> float | None:
    latest = []
    for entity in entities_of(job.plans):
        # Counts are as of the end of the training window and say nothing of how fresh vectors are.
        kinds = [plan.tags["kind"] for plan in entity_plans(job, entity) if not plan.tags["kind"].endswith("_stats")]
        for path in shard_files(job.folder, entity):
            table = pq.read_table(path, columns=[f"{kind}.{TIME}" for kind in kinds], partitioning=None)
            latest += [pc.max(column).as_py() for column in table.columns]
    times = [time.timestamp() for time in latest if time is not None]
    return max(times) if times else None


def _coverage(job: WriteJob, session: "DuckDBPyConnection", catalogue: Path | None, here: Registered) -> dict[str, int]:
    items = files_of(catalogue) if catalogue is not None else files_of(job.work / here.items / ITEM_STATS)
    users = files_of(job.work / here.users / USER_HISTORIES)
    counted: dict[str, int] = {}
    for entity, wanted in (("item", items), ("user", users)):
        key, kind = f"{entity}_id", f"{entity}_vectors"
        chosen = [files_of(path) for path in shard_files(job.folder, entity)]
        online = f'SELECT {key}, "{kind}.vector_row" AS found FROM read_parquet(?)'
        if not chosen:
            online, chosen = f"SELECT {key}, NULL AS found FROM read_parquet(?) LIMIT 0", [wanted]
        query = f"""
            SELECT count(*), count(online.found) FROM
            (SELECT DISTINCT {key} FROM read_parquet(?) WHERE {key} <> '')
            LEFT JOIN ({online}) AS online USING ({key})
        """
        row = session.execute(query, [wanted, chosen]).fetchone()
        assert row is not None
        counted |= {f"{entity}s": int(row[0]), f"{entity}s_with_vector": int(row[1])}
    return counted
