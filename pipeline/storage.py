"""Datasets on disk: written aside, committed by their manifest, which is written last.

`DIR/<dataset>/<fingerprint>/` holds the Parquet shards (`part-00000.parquet`) or files of one dataset and its
`manifest.json`. A folder without a manifest is unfinished; a reader that sees a manifest sees everything. The
fingerprint is the hash of the settings that change the result and of the inputs' fingerprints, so that two presets
never overwrite each other and going back to an earlier one costs nothing.
"""

import fcntl
import hashlib
import json
import os
import uuid
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import BusyError, StageError

FINGERPRINT_DIGITS = 16


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a stage says of its work: rows_in = rows_ok + rows_rejected + rows_skipped."""

    rows_in: int = 0
    rows_ok: int = 0
    rows_rejected: int = 0
    rows_skipped: int = 0
    reasons: dict[str, int] = field(default_factory=dict)
    """Rejected rows by reason."""
    details: dict[str, Any] = field(default_factory=dict)
    """Stage-specific facts that belong in the manifest, JSON-able."""


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """A dataset's folder; `manifest` is None until it is committed."""

    name: str
    fingerprint: str
    folder: Path
    schema: pa.Schema | None

    @property
    def manifest(self) -> dict[str, Any] | None:
        """The manifest of a committed dataset."""
        path = self.folder / "manifest.json"
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None

    @property
    def details(self) -> dict[str, Any]:
        """The stage-specific facts of a committed dataset."""
        manifest = self.manifest
        if manifest is None:
            raise StageError(f"{self.name} is not made yet; run: msd run {self.name}")
        return manifest["details"]

    def shards(self) -> list[Path]:
        """Parquet files in row order."""
        return sorted(self.folder.glob("part-*.parquet"))

    def table(self, columns: list[str] | None = None) -> pa.Table:
        """All rows, in shard order; for tables that fit in memory."""
        assert self.schema is not None
        wanted = self.schema if columns is None else pa.schema([self.schema.field(name) for name in columns])
        tables = [conform(pq.read_table(path, columns=columns, partitioning=None), wanted) for path in self.shards()]
        return pa.concat_tables(tables) if tables else wanted.empty_table()

    def batches(self, max_rows: int, first_row: int = 0) -> Iterator[pa.RecordBatch]:
        """All rows from first_row on in shard order, max_rows a batch but for the last; bounded memory."""
        assert self.schema is not None
        held: list[pa.RecordBatch] = []
        num_held = 0
        for batch in self._pieces(max_rows, first_row):
            held.append(conform(pa.Table.from_batches([batch]), self.schema).combine_chunks().to_batches()[0])
            num_held += batch.num_rows
            while num_held >= max_rows:
                merged = pa.Table.from_batches(held).combine_chunks()
                yield merged.slice(0, max_rows).combine_chunks().to_batches()[0]
                rest = merged.slice(max_rows)
                held, num_held = rest.to_batches(), rest.num_rows
        if num_held:
            yield pa.Table.from_batches(held).combine_chunks().to_batches()[0]

    def num_rows(self) -> int:
        """Rows of all shards, from the Parquet footers."""
        return sum(pq.ParquetFile(path).metadata.num_rows for path in self.shards())

    def _pieces(self, max_rows: int, first_row: int) -> Iterator[pa.RecordBatch]:
        """Rows from first_row on as the files hold them, none empty; files that lie before it are not read."""
        skip = first_row
        for path in self.shards():
            with pq.ParquetFile(path) as file:
                if skip >= file.metadata.num_rows:
                    skip -= file.metadata.num_rows
                    continue
                for batch in file.iter_batches(batch_size=max_rows):
                    if batch.num_rows > skip:
                        yield batch.slice(skip)
                    skip = max(skip - batch.num_rows, 0)


class Workspace:
    """The folder all datasets of one user live in."""

    def __init__(self, root: Path) -> None:
        """Makes the folder when it does not exist."""
        self.root = root.resolve()
        self.root.mkdir(parents=True, exist_ok=True)

    def dataset(self, name: str, fingerprint: str, schema: pa.Schema | None) -> Dataset:
        """The handle of a dataset, made or not."""
        short = fingerprint[:FINGERPRINT_DIGITS]
        return Dataset(name=name, fingerprint=short, folder=self.root / name / short, schema=schema)

    def remember(self, call: dict[str, Any]) -> None:
        """Keeps the source, preset and overrides of the last run, so that `msd list` and `msd show` need no flags."""
        write_atomically(self.root / "run.json", json.dumps(call, indent=1).encode())

    def remembered(self) -> dict[str, Any]:
        """What `remember` kept; empty before the first run."""
        path = self.root / "run.json"
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def commit(dataset: Dataset, outcome: Outcome, facts: dict[str, Any]) -> None:
    """Writes the manifest, the last act of a stage.

    Args:
        dataset: whose files are all in place.
        outcome: the rows the stage counted.
        facts: inputs, settings, seconds and versions, as the runner knows them.

    Raises:
        StageError: the counts do not add up.
    """
    parts = (outcome.rows_ok, outcome.rows_rejected, outcome.rows_skipped)
    counted = sum(parts)
    if outcome.rows_in != counted or min(parts) < 0:
        raise StageError(
            f"{dataset.name}: {outcome.rows_in} rows went in but {counted} are accounted for; this is a bug"
        )
    files = [path for path in sorted(dataset.folder.rglob("*")) if path.is_file() and _is_data(path, dataset.folder)]
    digests = {str(path.relative_to(dataset.folder)): file_digest(path) for path in files}
    manifest = {
        "dataset": dataset.name,
        "fingerprint": dataset.fingerprint,
        **asdict(outcome),
        **facts,
        "files": digests,
    }
    write_atomically(dataset.folder / "manifest.json", json.dumps(manifest, indent=1, default=str).encode())


def amend(folder: Path, erased: int, changed: Collection[Path] | None = None) -> None:
    """Brings the manifest of a committed dataset up to files that rows were erased from.

    Rows that went count as skipped, so that the counts still add up; `erased` says how many rows were touched in all.

    Args:
        folder: of the dataset.
        erased: rows removed or blanked just now.
        changed: the files written anew; None where they are not known, and every file is read.
    """
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text(encoding="utf-8"))
    there = {name: digest for name, digest in manifest["files"].items() if (folder / name).is_file()}
    anew = [name for name in there if changed is None or folder / name in changed]
    manifest["files"] = there | {name: file_digest(folder / name) for name in anew}
    manifest["erased"] = manifest.get("erased", 0) + erased
    parts = sorted(folder.glob("part-*.parquet"))
    if parts:
        reasons = _reasons(parts if _has_reason(parts[0]) else sorted((folder / "rejected").glob("part-*.parquet")))
        rejected = sum(reasons.values())
        rows = sum(pq.read_metadata(part).num_rows for part in parts)
        rows_ok = rows - rejected if _has_reason(parts[0]) else rows
        skipped = manifest["rows_in"] - rows_ok - rejected
        manifest |= {"rows_ok": rows_ok, "rows_rejected": rejected, "rows_skipped": skipped, "reasons": reasons}
    write_atomically(path, json.dumps(manifest, indent=1, default=str).encode())


def _has_reason(part: Path) -> bool:
    return "reason" in pq.read_schema(part).names


def _reasons(parts: Iterable[Path]) -> dict[str, int]:
    """Rejected rows by reason."""
    counted: dict[str, int] = {}
    for part in parts:
        for row in pq.read_table(part, columns=["reason"], partitioning=None)["reason"].value_counts().to_pylist():
            if row["values"] is not None:
                counted[row["values"]] = counted.get(row["values"], 0) + row["counts"]
    return counted


def conform(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """The table's columns in the schema's order and types.

    Raises:
        StageError: a column is missing, cannot be cast, or is null where the schema forbids it.
    """
    missing = [name for name in schema.names if name not in table.column_names]
    if missing:
        raise StageError(f"a table lacks the columns {', '.join(missing)}; it has {', '.join(table.column_names)}")
    columns = []
    for declared in schema:
        column = table.column(declared.name)
        if not declared.nullable and column.null_count:
            raise StageError(f"column {declared.name} holds {column.null_count} nulls where none may be")
        columns.append(column if column.type == declared.type else _cast(column, declared))
    return pa.table(columns, schema=schema)


def _cast(column: pa.ChunkedArray, declared: pa.Field) -> pa.ChunkedArray:
    try:
        return column.cast(declared.type)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise StageError(f"column {declared.name} is {column.type} and cannot be {declared.type}: {error}") from error


def write_shard(path: Path, table: pa.Table) -> None:
    """Writes one Parquet file that is there whole or not at all, whoever else writes it at the same time."""
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex}.writing")
    pq.write_table(table, aside, compression="zstd")
    _sync(aside)
    aside.replace(path)


def write_atomically(path: Path, content: bytes) -> None:
    """Writes a small file that is there whole or not at all, whoever else writes it at the same time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex}.writing")
    aside.write_bytes(content)
    _sync(aside)
    aside.replace(path)


def write_once(path: Path, content: bytes) -> bool:
    """Writes a whole file unless there is one; of any number of writers one succeeds.

    Returns:
        False where the file was there already.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex}.writing")
    aside.write_bytes(content)
    _sync(aside)
    try:
        os.link(aside, path)
    except FileExistsError:
        return False
    finally:
        aside.unlink()
    return True


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def held_by_us(dataset: Dataset, *, part: str = "") -> Iterator[None]:
    """Holds the dataset, or a part of it, against other runs; a killed process lets go by itself.

    Args:
        dataset: to be made.
        part: name of a part that others may stand beside; empty for the whole.

    Raises:
        BusyError: another process is making the same dataset, or the same part.
    """
    dataset.folder.parent.mkdir(parents=True, exist_ok=True)
    lock_path = dataset.folder.parent / f".{dataset.fingerprint}.lock"
    with _locked(lock_path, dataset.name, shared=bool(part)):
        if not part:
            yield
            return
        with _locked(lock_path.with_suffix(f".{part}.lock"), f"slice {part} of {dataset.name}", shared=False):
            yield


@contextmanager
def _locked(path: Path, what: str, *, shared: bool) -> Iterator[None]:
    with path.open("a+") as lock:
        try:
            fcntl.flock(lock, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise BusyError(
                f"{what} is being made by another run; wait for it to end, or use another --work"
            ) from error
        yield


def _is_data(path: Path, folder: Path) -> bool:
    relative = path.relative_to(folder)
    return not any(part.startswith((".", "_")) for part in relative.parts) and relative.name != "manifest.json"


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
