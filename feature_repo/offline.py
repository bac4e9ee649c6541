"""Vector tables and histories → the files Feast and the trainers read: offline/, rows.parquet and vectors.npy.

Feast joins row numbers and never moves a vector: `vectors.npy` holds them all in row order, and whoever needs them
gathers from the memory-mapped file (7.5-8.6 M rows/s against 0.4 M/s out of Parquet).
"""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from feature_repo.definitions import ViewPlan
from pipeline.errors import SpaceMismatch, StageError
from pipeline.progress import progress
from pipeline.storage import Dataset, conform, write_shard

PART_ROWS = 16_384
NAMED_ROWS = 5
VECTORS_FILE = "vectors.npy"
ROWS_FILE = "rows.parquet"


@dataclass(frozen=True, kw_only=True)
class VectorFacts:
    """What a vector table turned out to hold."""

    space_id: str
    dim: int
    rows: int


def vector_facts(vectors: Dataset) -> VectorFacts:
    """Space and length of a vector table, from its first row.

    Raises:
        StageError: the table is empty or its vectors have no element.
    """
    rows = vectors.num_rows()
    if not rows:
        raise StageError(
            f"{vectors.name} holds no rows, wanted at least one vector to publish; see: msd show {vectors.name}"
            + ("; or embed users earlier: --set histories.embed_min_events=1" if vectors.name == "user_vectors" else "")
        )
    first = next(vectors.batches(1))
    dim = len(first.column("vector")[0])
    if not dim:
        raise StageError(f"{vectors.name}: the first vector is empty; see: msd show {vectors.name}")
    return VectorFacts(space_id=first.column("space_id")[0].as_py(), dim=dim, rows=rows)


def write_vector_files(vectors: Dataset, facts: VectorFacts, plan: ViewPlan, time_column: str, folder: Path) -> None:
    """Writes offline/, rows.parquet and vectors.npy, one batch in memory at a time.

    Args:
        vectors: item_vectors or user_vectors; row N of it becomes vector_row N.
        facts: of the same table.
        plan: the view the offline files belong to.
        time_column: when a vector could be known; becomes event_timestamp.
        folder: of the publication.

    Raises:
        SpaceMismatch: a row belongs to another space than the first.
        StageError: a vector is of another length, all zero, or holds NaN or infinity; a key stands twice.
    """
    with _fresh_parts(plan) as parts, _npy_stream(folder / VECTORS_FILE, facts) as stream:
        row = 0
        with progress(f"{plan.name} offline", facts.rows) as advance:
            for batch in vectors.batches(PART_ROWS):
                keys = batch.column(plan.key.name)
                vectors_ND = _checked(batch, facts, vectors.name, keys)
                stream.write(vectors_ND.tobytes())
                numbers = pa.array(np.arange(row, row + batch.num_rows))
                times = batch.column(time_column)
                parts.write(
                    pa.table(
                        [keys, batch.column("vector"), numbers, batch.column("content_hash"), times, times],
                        schema=plan.file_schema,
                    )
                )
                row += batch.num_rows
                advance(batch.num_rows)
    _write_rows(plan, "snapshot_at" if time_column == "snapshot_at" else None, folder, vectors.name)


def write_history_files(histories: Dataset, plan: ViewPlan) -> int:
    """Writes the source of user_histories; history_row is the row number in `histories.table()`.

    Returns:
        The rows written.

    Raises:
        StageError: a user has two histories of the same time.
    """
    row = 0
    with _fresh_parts(plan) as parts:
        for batch in histories.batches(PART_ROWS):
            numbers = pa.array(np.arange(row, row + batch.num_rows))
            times = batch.column("snapshot_at")
            columns = [batch.column("user_id"), numbers, batch.column("num_events"), times, times]
            parts.write(pa.table(columns, schema=plan.file_schema))
            row += batch.num_rows
    _check_unique(read_keys(plan), plan, histories.name)
    return row


def write_stats_files(stats: Dataset, plan: ViewPlan) -> int:
    """Writes the source of item_stats or user_stats: counts, usable from the end of the window they were counted on."""
    row = 0
    with _fresh_parts(plan) as parts:
        for batch in stats.batches(PART_ROWS):
            times = batch.column("counted_until")
            columns = [*(batch.column(field.name) for field in (plan.key, *plan.features)), times, times]
            parts.write(pa.table(columns, schema=plan.file_schema))
            row += batch.num_rows
    return row


def read_keys(plan: ViewPlan) -> pa.Table:
    """All columns of a view's offline files but the vectors, in row order."""
    wanted = pa.schema([field for field in plan.file_schema if field.name != "vector"])
    tables = [
        pq.read_table(path, columns=wanted.names, partitioning=None)
        for path in sorted(plan.files.glob("part-*.parquet"))
    ]
    return pa.concat_tables(conform(table, wanted) for table in tables) if tables else wanted.empty_table()


def latest_rows(keys: pa.Table, key: str) -> pa.Table:
    """Of each key the row with the greatest event_timestamp, keys in ascending order."""
    ordered = keys.sort_by([(key, "ascending"), ("event_timestamp", "ascending")]).combine_chunks()
    column = ordered.column(key)
    if len(column) < 2:
        return ordered
    is_last = pc.not_equal(column.slice(0, len(column) - 1), column.slice(1))
    return ordered.filter(pa.concat_arrays([*is_last.chunks, pa.array([True])]))


class _Parts:
    """Numbered Parquet files of one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.number = 0

    def write(self, table: pa.Table) -> None:
        write_shard(self.folder / f"part-{self.number:05d}.parquet", table)
        self.number += 1


@contextmanager
def _fresh_parts(plan: ViewPlan) -> Iterator[_Parts]:
    """An empty folder for the plan's files: a killed run may have left some of another cut."""
    shutil.rmtree(plan.files, ignore_errors=True)
    plan.files.mkdir(parents=True)
    parts = _Parts(plan.files)
    yield parts
    if not parts.number:
        parts.write(plan.file_schema.empty_table())


@contextmanager
def _npy_stream(path: Path, facts: VectorFacts) -> Iterator[BinaryIO]:
    """A .npy file whose header is written first and whose rows follow as they come."""
    aside = path.with_name(f".{path.name}.writing")
    header: dict[str, Any] = {"descr": "<f4", "fortran_order": False, "shape": (facts.rows, facts.dim)}
    write_header: Callable[..., None] = np.lib.format.write_array_header_1_0
    with aside.open("wb") as file:
        write_header(file, header)
        yield file
    aside.replace(path)


def _checked(batch: pa.RecordBatch, facts: VectorFacts, dataset: str, keys: pa.Array) -> "npt.NDArray[np.float32]":
    """The batch's vectors as little-endian float32 [N, D], fit to be published."""
    spaces = pc.unique(batch.column("space_id")).to_pylist()
    if spaces != [facts.space_id]:
        other = next(space for space in spaces if space != facts.space_id)
        raise SpaceMismatch(
            f"{dataset} holds vectors of the spaces {facts.space_id} and {other}, wanted one;"
            f" delete its folder and make it anew: msd run {dataset}"
        )
    column = batch.column("vector")
    _refuse(pc.not_equal(pc.list_value_length(column), facts.dim), keys, dataset, f"not of length {facts.dim}")
    flat = column.flatten().to_numpy(zero_copy_only=False)
    vectors_ND = np.ascontiguousarray(flat, dtype="<f4").reshape(batch.num_rows, facts.dim)
    _refuse(~np.isfinite(vectors_ND).all(axis=1), keys, dataset, "with NaN or infinity")
    _refuse(~vectors_ND.any(axis=1), keys, dataset, "all zero")
    return vectors_ND


def _refuse(is_bad: "pa.Array | npt.NDArray[np.bool_]", keys: pa.Array, dataset: str, what: str) -> None:
    bad = keys.filter(pa.array(is_bad))
    if len(bad):
        named = ", ".join(bad.slice(0, NAMED_ROWS).to_pylist()) + (", …" if len(bad) > NAMED_ROWS else "")
        raise StageError(
            f"{dataset}: {len(bad)} vectors are {what}: {named}; nothing is published; look at them:"
            f" msd show {dataset}; then mend the encoder and make it anew: msd run {dataset}"
        )


def _write_rows(plan: ViewPlan, time_name: str | None, folder: Path, dataset: str) -> None:
    keys = read_keys(plan)
    _check_unique(keys, plan, dataset)
    columns = {"vector_row": keys.column("vector_row"), plan.key.name: keys.column(plan.key.name)}
    if time_name:
        columns[time_name] = keys.column("event_timestamp")
    write_shard(folder / ROWS_FILE, pa.table({**columns, "content_hash": keys.column("content_hash")}))


def _check_unique(keys: pa.Table, plan: ViewPlan, dataset: str) -> None:
    """Two values of one key and time would make the join's answer a matter of chance."""
    names = [plan.key.name] if plan.key.name == "item_id" else [plan.key.name, "event_timestamp"]
    counted = keys.group_by(names).aggregate([([], "count_all")])
    twice = counted.filter(pc.greater(counted.column("count_all"), 1))
    if twice.num_rows:
        named = ", ".join(twice.column(plan.key.name).slice(0, NAMED_ROWS).to_pylist())
        raise StageError(
            f"{dataset}: {twice.num_rows} keys ({' and '.join(names)}) stand more than once, wanted one row each:"
            f" {named}; see: msd show {dataset}"
        )
