"""Labels and views → the row numbers each label could know at its time, joined by DuckDB out of core.

What is joined is what Feast joins: of a label's key the row with the latest `event_timestamp` that is not later than
the label, the latest `created` among those of one time, nothing where that row is older than the view's `ttl`. Feast
pairs a label with every earlier row of its key before it keeps one, and moves vectors along; an as-of join sorts both
sides once and moves numbers, so that its cost does not depend on how long a history is.

Labels go through in passes. A pass keeps its labels on disk, gives DuckDB their keys and times, puts the numbers where
they belong by position, and hands the labels out again as they came. So a view is read once a pass and not once a
batch, and memory is that of DuckDB and eight bytes a label and number.
"""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from feature_repo.definitions import ViewPlan
from pipeline.errors import ConfigError, StageError, require

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

TIME = "event_at"
POSITION = "position"
FETCHED_ROWS = 500_000
MICROSECOND = timedelta(microseconds=1)


@dataclass(frozen=True, kw_only=True)
class RowNumbers:
    """A column of row numbers in a view, to be joined to labels as of their time."""

    name: str
    """What the joined column is called."""
    plan: ViewPlan
    column: str
    """Of the view's files: int64, never null."""
    ttl: timedelta = timedelta(0)
    """A row older than this at the label's time counts as none; zero: rows do not expire."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a join may take of the machine."""

    memory_gib: float
    """Of DuckDB; what does not fit goes to the folder for temporary files."""
    threads: int
    """0: as many as there are processors."""
    pass_rows: int
    """Labels from which on a pass begins to join."""
    scratch: Path | None = None
    """Folder for temporary files; None: the system's."""

    @property
    def scratch_shown(self) -> str:
        """The folder, as messages name it."""
        return str(self.scratch or tempfile.gettempdir())


def join_as_of(
    labels: Iterator[pa.RecordBatch], wanted: Sequence[RowNumbers], limits: Limits
) -> Iterator[pa.RecordBatch]:
    """Adds to each batch of labels the wanted columns, null where nothing was known.

    Args:
        labels: with `event_at` (timestamps in microseconds) and the keys of the views; every row is kept, in its place.
        wanted: names must differ from each other and from those of the labels.
        limits: of memory and processors; they do not change the result.

    Raises:
        ConfigError: a limit is out of its range.
        StageError: a view cannot be read, or memory or disk do not do.
    """
    _check(limits)
    with tempfile.TemporaryDirectory(prefix="msd-join-", dir=limits.scratch) as scratch:
        spool = Path(scratch) / "labels.arrow"
        while _fill(spool, labels, limits):
            yield from _handed_out(spool, _numbers(spool, wanted, limits, scratch))


def _check(limits: Limits) -> None:
    if limits.memory_gib <= 0 or limits.threads < 0 or limits.pass_rows < 1:
        raise ConfigError(
            f"[examples] memory_gib is {limits.memory_gib}, threads {limits.threads} and pass_rows {limits.pass_rows};"
            " wanted memory_gib above 0, threads 0 or more and pass_rows 1 or more"
        )


def _fill(spool: Path, labels: Iterator[pa.RecordBatch], limits: Limits) -> bool:
    """Takes batches until they hold pass_rows labels and puts them on disk; False where there was none to take."""
    batch = next(labels, None)
    if batch is None:
        return False
    num_rows = 0
    try:
        with pa.OSFile(str(spool), "wb") as sink, pa.ipc.new_stream(sink, batch.schema) as stream:
            while batch is not None:
                stream.write_batch(batch)
                num_rows += batch.num_rows
                batch = next(labels, None) if num_rows < limits.pass_rows else None
    except OSError as error:
        raise StageError(
            f"the point-in-time join cannot read its labels or keep them under {limits.scratch_shown} ({error}); free"
            " some of it, set TMPDIR to a larger disk, or take fewer at once: --set examples.pass_rows=…"
        ) from error
    return True


def _numbers(
    spool: Path, wanted: Sequence[RowNumbers], limits: Limits, scratch: str
) -> dict[str, npt.NDArray[np.int64]]:
    """The wanted columns of the pass, by the labels' position in it; -1 is null."""
    duckdb = require("duckdb", needed_by="the point-in-time join", extra="store")
    try:
        with closing(_connect(limits, scratch)) as connection:
            num_rows = _load(connection, spool, sorted({numbers.plan.key.name for numbers in wanted}))
            return {numbers.name: _joined(connection, numbers, num_rows) for numbers in wanted}
    except duckdb.OutOfMemoryException as error:
        raise StageError(
            f"the point-in-time join ran out of its {limits.memory_gib} GiB or of disk under {limits.scratch_shown}"
            f" ({str(error).splitlines()[0]}); give it more: --set examples.memory_gib=…, or TMPDIR on a larger disk"
        ) from error
    except (duckdb.IOException, duckdb.InvalidInputException) as error:
        raise StageError(
            f"the point-in-time join cannot read or write a file ({str(error).splitlines()[0]}); where a file of"
            " item_features or user_features is gone or torn, delete that dataset's folder and make it anew:"
            " msd run item_features user_features"
        ) from error


def _connect(limits: Limits, scratch: str) -> "DuckDBPyConnection":
    import duckdb

    settings: dict[str, str | bool | int] = {
        "memory_limit": f"{limits.memory_gib}GiB",
        "temp_directory": str(Path(scratch) / "duckdb"),
        "preserve_insertion_order": False,
        "autoinstall_known_extensions": False,
        "autoload_known_extensions": False,
    }
    if limits.threads:
        settings["threads"] = limits.threads
    return duckdb.connect(":memory:", config=settings)


def _load(connection: "DuckDBPyConnection", spool: Path, keys: Sequence[str]) -> int:
    """Gives DuckDB the position, the keys and the time of each label; returns how many there are."""
    columns = ", ".join(f"{_name(key)} VARCHAR" for key in keys)
    connection.execute(f"CREATE TABLE labels ({POSITION} BIGINT, {columns}, {TIME} BIGINT)")
    num_rows = 0
    for batch in _spooled(spool):
        positions = pa.array(np.arange(num_rows, num_rows + batch.num_rows))
        times = batch.column(TIME).cast(pa.timestamp("us", tz="UTC")).cast(pa.int64())
        narrow = pa.table([positions, *(batch.column(key) for key in keys), times], names=[POSITION, *keys, TIME])
        connection.from_arrow(narrow).insert_into("labels")
        num_rows += batch.num_rows
    return num_rows


def _joined(connection: "DuckDBPyConnection", numbers: RowNumbers, num_rows: int) -> npt.NDArray[np.int64]:
    joined = np.full(num_rows, -1, dtype=np.int64)
    path = numbers.plan.source_path
    counted = connection.execute("SELECT sum(num_rows) FROM parquet_file_metadata(?)", [path]).fetchone()
    is_long = counted is not None and counted[0] > num_rows
    found = connection.execute(_query(numbers, is_long=is_long), [path])
    for batch in found.to_arrow_reader(FETCHED_ROWS):
        joined[batch.column(0).to_numpy()] = batch.column(1).to_numpy()
    return joined


def _query(numbers: RowNumbers, *, is_long: bool) -> str:
    """Position and row number of each label that knows one.

    Of rows of one key and time the latest created one stays before the join, then the greatest number: an as-of join
    would take any. A view longer than the pass is first cut to the pass's keys, which costs less than sorting it all.
    """
    key, column = _name(numbers.plan.key.name), _name(numbers.column)
    cut = f"WHERE {key} IN (SELECT {key} FROM labels)" if is_long else ""
    expiry = f"WHERE known_at >= {TIME} - {numbers.ttl // MICROSECOND}" if numbers.ttl else ""
    return f"""
        SELECT {POSITION}, number
        FROM labels ASOF JOIN (
            SELECT
                {key},
                epoch_us(event_timestamp) AS known_at,
                max_by({column}, (epoch_us(created), {column})) AS number
            FROM read_parquet(?, hive_partitioning => false) {cut}
            GROUP BY ALL
        ) AS known ON labels.{key} = known.{key} AND {TIME} >= known_at
        {expiry}
    """


def _handed_out(spool: Path, columns: dict[str, npt.NDArray[np.int64]]) -> Iterator[pa.RecordBatch]:
    """The pass's batches as they came, with the columns."""
    start = 0
    for batch in _spooled(spool):
        stop = start + batch.num_rows
        added = [pa.array(column[start:stop], mask=column[start:stop] < 0) for column in columns.values()]
        yield pa.RecordBatch.from_arrays([*batch.columns, *added], names=[*batch.schema.names, *columns])
        start = stop


def _spooled(spool: Path) -> Iterator[pa.RecordBatch]:
    with pa.OSFile(str(spool), "rb") as source, pa.ipc.open_stream(source) as stream:
        yield from stream


def _name(identifier: str) -> str:
    return '"' + identifier.replace('"', '""') + '"'
