"""Offline files of a generation → the rows that go online: the latest of each key, all views of an entity side by side.

DuckDB joins out of core, so that memory stays bounded however large the catalogue is. The rows are kept as numbered
Parquet files of `shard_rows` keys beside the receipt: what a shard holds is then the same for every process that writes
it, a killed run goes on at the next shard, and a generation's keys are known when it is collected.
"""

import glob
import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from feature_repo.definitions import ITEM_STATS, USER_HISTORIES, ViewPlan
from pipeline.storage import file_digest, write_atomically, write_shard

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

FOLDER = "online"
CHOSEN_FILE = "chosen.json"
MEMORY_LIMIT = "2GB"
TIME = "event_timestamp"


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What goes online."""

    shard_rows: int
    active_days: float
    """Users whose last event lies at most so many days before the log's last one; 0: all."""
    max_keys: dict[str, int]
    """By entity, where there is a limit."""


def entity_of(plan: ViewPlan) -> str:
    """`item` or `user`."""
    return plan.key.name.removesuffix("_id")


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """What goes online."""

    keys: dict[str, int]
    """By entity."""
    rows: dict[str, int]
    """By kind of view: keys that have something of it."""


def choose_rows(plans: Sequence[ViewPlan], wanted: Wanted, folder: Path) -> Chosen:
    """Writes FOLDER of a publication anew: items by exposure and users by their last event, up to the limits.

    Args:
        plans: the views of a generation.
        wanted: see Wanted.
        folder: of the publication.
    """
    target, aside = folder / FOLDER, folder / f".{FOLDER}.writing"
    for stale in (target, aside):
        shutil.rmtree(stale, ignore_errors=True)
    aside.mkdir(parents=True)
    chosen = Chosen(keys={}, rows={})
    with duckdb_session(folder) as session:
        for entity in entities_of(plans):
            views = [plan for plan in plans if entity_of(plan) == entity]
            _write(session, views, wanted, aside, chosen)
    files = {path.name: file_digest(path) for path in sorted(aside.glob("*.parquet"))}
    write_atomically(aside / CHOSEN_FILE, json.dumps(asdict(chosen) | {"files": files}, indent=1).encode())
    aside.replace(target)
    return chosen


def chosen_before(folder: Path) -> Chosen | None:
    """What choose_rows returned for a publication's folder; None where it has not run to its end."""
    path = folder / FOLDER / CHOSEN_FILE
    if not path.is_file():
        return None
    stored = json.loads(path.read_text(encoding="utf-8"))
    return Chosen(keys=stored["keys"], rows=stored["rows"])


def chosen_digest(folder: Path) -> str:
    """What stands for all rows chosen; empty where they are not there."""
    path = folder / FOLDER / CHOSEN_FILE
    return file_digest(path) if path.is_file() else ""


def shard_files(folder: Path, entity: str = "") -> list[Path]:
    """The shards of an entity, or of all; a shard's number is its place in the list of all."""
    return sorted((folder / FOLDER).glob(f"{entity}*-*.parquet"))


def view_rows(shard: pa.Table, plan: ViewPlan) -> pa.Table:
    """A view's columns of a shard: the key, its features but the vector, event_timestamp; null where it has no row."""
    kind = plan.tags["kind"]
    names = [field.name for field in plan.features if field.name != "vector"] + [TIME]
    columns = {plan.key.name: shard.column(plan.key.name)} | {name: shard.column(f"{kind}.{name}") for name in names}
    return pa.table(columns)


def offline_rows(session: "DuckDBPyConnection", plan: ViewPlan, rows: pa.Table) -> pa.Table:
    """What the offline files hold for some keys at some times, the vector included.

    Args:
        session: of duckdb_session.
        plan: the view.
        rows: with the key and event_timestamp.
    """
    names = [plan.key.name, *(field.name for field in plan.features), TIME]
    session.register("wanted", rows.select([plan.key.name, TIME]))
    query = f"SELECT {', '.join(names)} FROM {read_source(plan)} SEMI JOIN wanted USING ({plan.key.name}, {TIME})"
    return session.execute(query).to_arrow_table()


def entities_of(plans: Sequence[ViewPlan]) -> list[str]:
    """The entities of some views, each once."""
    return list(dict.fromkeys(entity_of(plan) for plan in plans))


def count_wanted(plans: Sequence[ViewPlan], wanted: Wanted, folder: Path) -> dict[str, int]:
    """Keys that would go online without limits of number, by entity."""
    with duckdb_session(folder) as session:
        counted = {}
        for entity in entities_of(plans):
            views = [plan for plan in plans if entity_of(plan) == entity]
            query = f"SELECT count(*) FROM ({_latest(views)}) {_where(entity, views, wanted)}"
            counted[entity] = int(_one(session, query))
        return counted


def sample_rows(session: "DuckDBPyConnection", plans: Sequence[ViewPlan], count: int) -> pa.Table:
    """Some keys of one entity as a shard has them, the first by a hash.

    Args:
        session: of duckdb_session.
        plans: the entity's views.
        count: keys wanted.
    """
    key = plans[0].key.name
    query = f"SELECT * FROM ({_latest(plans)}) ORDER BY md5({key}), {key} LIMIT {count}"
    return session.execute(query).to_arrow_table()


@contextmanager
def duckdb_session(folder: Path) -> "Iterator[DuckDBPyConnection]":
    """A DuckDB that spills into a folder and leaves nothing there; opening one takes 10 ms, so queries share it."""
    import duckdb

    spill = folder / ".duckdb"
    settings = {"memory_limit": MEMORY_LIMIT, "temp_directory": str(spill), "preserve_insertion_order": False}
    session = duckdb.connect(":memory:", config=settings)
    try:
        session.execute("SET TimeZone = 'UTC'")
        yield session
    finally:
        session.close()
        shutil.rmtree(spill, ignore_errors=True)


def read_source(plan: ViewPlan) -> str:
    """The SQL that reads a view's offline files."""
    return f"read_parquet('{plan.source_path.replace(chr(39), chr(39) * 2)}')"


def files_of(path: Path) -> str:
    """A Parquet file, or all of a folder, as DuckDB's read_parquet wants it: brackets in a name are no pattern."""
    escaped = glob.escape(str(path))
    return escaped if path.suffix == ".parquet" else f"{escaped}/*.parquet"


def _write(
    session: "DuckDBPyConnection", views: Sequence[ViewPlan], wanted: Wanted, folder: Path, chosen: Chosen
) -> None:
    """The shards of an entity; rows in the order of their vectors, so that a shard gathers neighbouring ones."""
    entity = entity_of(views[0])
    limit = f"LIMIT {wanted.max_keys[entity]}" if entity in wanted.max_keys else ""
    key, vectors = views[0].key.name, views[0].tags["kind"]
    query = f"""
        SELECT * FROM ({_latest(views)}) {_where(entity, views, wanted)}
        ORDER BY {_rank(entity)} DESC NULLS LAST, {key} {limit}
    """
    ordered = f'SELECT * FROM ({query}) ORDER BY "{vectors}.vector_row" NULLS LAST, {key}'
    reader = session.execute(ordered).to_arrow_reader(wanted.shard_rows)
    chosen.keys[entity] = 0
    chosen.rows.update({view.tags["kind"]: 0 for view in views})
    for number, table in enumerate(_in_shards(reader, wanted.shard_rows)):
        write_shard(folder / f"{entity}s-{number:05d}.parquet", table)
        chosen.keys[entity] += table.num_rows
        for kind in (view.tags["kind"] for view in views):
            chosen.rows[kind] += table.num_rows - table.column(f"{kind}.{TIME}").null_count


def _in_shards(reader: pa.RecordBatchReader, shard_rows: int) -> Iterator[pa.Table]:
    """DuckDB's batches regrouped into shards of exactly so many rows, but for the last."""
    held = reader.schema.empty_table()
    for batch in reader:
        held = pa.concat_tables([held, pa.Table.from_batches([batch])])
        while held.num_rows >= shard_rows:
            yield held.slice(0, shard_rows).combine_chunks()
            held = held.slice(shard_rows)
    if held.num_rows:
        yield held.combine_chunks()


def _latest(views: Sequence[ViewPlan]) -> str:
    """SQL of one row per key with the latest row of each view beside the others, columns named `kind.feature`."""
    key = views[0].key.name
    joined = ""
    for view in views:
        names = [field.name for field in view.features if field.name != "vector"] + [TIME]
        packed = ", ".join(f"'{name}': {name}" for name in names)
        unpacked = ", ".join(f'latest.{name} AS "{view.tags["kind"]}.{name}"' for name in names)
        # Rows of an erased person have the key ''. Were two rows of one time, `created` would decide, as in Feast.
        one = f"""
            SELECT {key}, {unpacked} FROM (
                SELECT {key}, arg_max({{{packed}}}, ({TIME}, created)) AS latest
                FROM {read_source(view)} WHERE {key} <> '' GROUP BY {key}
            )
        """
        joined = f"({one})" if not joined else f"{joined} FULL JOIN ({one}) USING ({key})"
    return f"SELECT * FROM {joined}"


def _where(entity: str, views: Sequence[ViewPlan], wanted: Wanted) -> str:
    if entity != "user" or not wanted.active_days:
        return ""
    histories = next(view for view in views if view.tags["kind"] == USER_HISTORIES)
    latest = f"SELECT max({TIME}) FROM {read_source(histories)}"
    seconds = round(wanted.active_days * 86_400)
    return f'WHERE "{USER_HISTORIES}.{TIME}" >= ({latest}) - INTERVAL {seconds} SECONDS'


def _rank(entity: str) -> str:
    """What puts a key before others under a memory budget."""
    return f'"{ITEM_STATS}.exposures"' if entity == "item" else f'"{USER_HISTORIES}.{TIME}"'


def _one(session: "DuckDBPyConnection", query: str) -> Any:
    row = session.execute(query).fetchone()
    assert row is not None
    return row[0]


def num_rows(path: Path) -> int:
    """Keys of a shard, from its footer."""
    return int(pq.ParquetFile(path).metadata.num_rows)
