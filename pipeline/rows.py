"""Row-wise stages: a maker takes Arrow batches and gives one back for each, and every batch becomes one shard file.

A shard is written whole, so that a killed run goes on at the next missing one. The shards of one dataset can be made
side by side: `make_slice` makes one part of them in this process, and whoever then runs the stage finds them there.

What a maker has to say of its work (numbers by name, as JSON under the key `facts` of a batch's schema metadata) lies
beside the shard in a hidden file, so that the shard's bytes depend on its rows alone, and is summed up in the manifest.
"""

import inspect
import json
import shutil
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import kept_vectors
from pipeline.errors import ConfigError, StageError
from pipeline.estimate import check_budget
from pipeline.job import Job, load
from pipeline.log_lines import event
from pipeline.progress import progress
from pipeline.rejects import check_rejected_share
from pipeline.storage import Outcome, conform, write_atomically, write_shard
from pipeline.workers import make_in_processes

SAVED_AHEAD = 4
"""Shards that wait to be written."""
SAVING_THREADS = 2
FACTS = b"facts"
MOST_SHARDS = 100_000
"""The names of shards have five digits, and their order is the rows'."""

UNEQUAL = b"unequal"


def execute_rows(job: Job) -> Outcome:
    """Makes the missing shards in this process and counts the rows of all."""
    settle_shard_size(job)
    make_shards(job, range(num_shards(job)))
    return finish(job)


def make_slice(job: Job, slice_number: int, num_slices: int) -> int:
    """Makes the missing shards of one slice: the slices are contiguous, and together they are all shards.

    Args:
        job: whose dataset stays uncommitted.
        slice_number: 1 to num_slices.
        num_slices: into how many parts the shards are dealt.

    Returns:
        The rows of the slice.
    """
    _mark_shard_size(job)
    total = num_shards(job)
    bounds = [total * part // num_slices for part in (slice_number - 1, slice_number)]
    make_shards(job, range(*bounds))
    return _rows_of(job, range(*bounds))


def make_shards(job: Job, numbers: range) -> None:
    """Makes those of the numbered shards that are not on disk, in this process or in `processes` workers."""
    missing = missing_shards(job, numbers)
    total = _rows_of(job, numbers)
    processes = min(getattr(job.config, "processes", 1), len(missing))
    with progress(job.stage.name, total) as advance:
        advance(total - sum(rows_of_shard(job, number) for number in missing))
        if not missing:
            return
        check_budget(job)
        makers = (
            make_in_processes(make_missing, job, missing, processes) if processes > 1 else make_missing(job, missing)
        )
        for number in makers:
            advance(rows_of_shard(job, number))
            event("shard written", shard=number, rows=rows_of_shard(job, number))


def make_missing(job: Job, missing: Sequence[int], *, inbox: str = "") -> Iterator[int]:
    """Makes the shards by the stage's maker, in this process; yields the number of each once it is on disk.

    The maker gets the other inputs by name, and where it asks for them the content store and the kept vectors.

    Args:
        job: whose maker is called.
        missing: numbers of shards that are not on disk, in order.
        inbox: where a driver elsewhere keeps the store still, the name of this worker's share (see ContentStore).
    """
    maker = load(job.stage.maker)
    arguments: dict[str, Any] = {name: job.inputs[name] for name in job.stage.inputs[1:]}
    with ExitStack() as stack:
        if asks_for_store(job):
            arguments["store"] = stack.enter_context(job.open_store(inbox=inbox))
        if _asks_for(job, "kept"):
            arguments["kept"] = stack.enter_context(job.open_kept())
        made = maker(_input_of(job, missing), job.config, **arguments)
        # What a maker keeps is on disk before it is yielded: a shard that a kill leaves unwritten costs its writing.
        yield from _saved(job, missing, made, num_ahead=SAVED_AHEAD if "kept" in arguments else 0)


def _saved(job: Job, missing: Sequence[int], made: Iterator[pa.RecordBatch], num_ahead: int) -> Iterator[int]:
    """Writes shards on threads beside the maker, so many unwritten at most; yields the number of each in its turn."""
    writing: deque[tuple[int, Future[None]]] = deque()
    with ThreadPoolExecutor(SAVING_THREADS) as threads:
        for position, batch in enumerate(made):
            assert position < len(missing), f"{job.stage.name} yielded more batches than it was given"
            writing.append((missing[position], threads.submit(save_shard, job, missing[position], batch)))
            while len(writing) > num_ahead:
                yield _written(*writing.popleft())
        while writing:
            yield _written(*writing.popleft())


def _written(number: int, writing: Future[None]) -> int:
    writing.result()
    return number


def asks_for_store(job: Job) -> bool:
    """Whether the stage's maker keeps what it made by content."""
    return _asks_for(job, "store")


def _asks_for(job: Job, name: str) -> bool:
    return name in inspect.signature(load(job.stage.maker)).parameters


def missing_shards(job: Job, numbers: Iterable[int]) -> list[int]:
    """Those of the numbered shards that are not on disk."""
    return [number for number in numbers if not shard_path(job.output.folder, number).exists()]


def save_shard(job: Job, number: int, made: pa.RecordBatch) -> None:
    """Writes one shard, unless another attempt at it was quicker; its footer says how many rows it was made from."""
    assert job.stage.schema is not None
    path = shard_path(job.output.folder, number)
    if path.exists():
        return
    facts = (made.schema.metadata or {}).get(FACTS)
    if facts is not None:
        write_atomically(_facts_path(path), facts)
    table = conform(pa.Table.from_batches([made]), job.stage.schema)
    counted = table.replace_schema_metadata({b"rows_in": str(rows_of_shard(job, number)).encode()})
    write_shard(path, counted)


def finish(job: Job) -> Outcome:
    """Checks that every shard is there, counts the rows and adds up what the maker said of them.

    Raises:
        StageError: shards are missing, or more rows were rejected than max_rejected_share allows.
    """
    wanted, found = num_shards(job), len(job.output.shards())
    if found != wanted:
        raise StageError(
            f"{job.stage.name}: {found} shards were made of {wanted}: {job.stage.maker} yields fewer batches than it is"
            f" given; this is a bug"
        )
    if _asks_for(job, "kept"):
        with job.open_kept() as kept:
            kept_vectors.compact(kept.root)
    for abandoned in job.output.folder.glob(".part-*.writing"):
        abandoned.unlink(missing_ok=True)
    return _count_rows(job)


def num_shards(job: Job) -> int:
    """Shards of the whole dataset."""
    return -(-job.rows_in // job.config.shard_rows)


def rows_of_shard(job: Job, number: int) -> int:
    """Rows of the first input that shard is made from."""
    return _rows_of(job, range(number, number + 1))


def shard_path(folder: Path, number: int) -> Path:
    """Where a shard lies."""
    return folder / f"part-{number:05d}.parquet"


def _rows_of(job: Job, numbers: range) -> int:
    total, size = job.rows_in, job.config.shard_rows
    return max(min(numbers.stop * size, total) - min(numbers.start * size, total), 0)


def _input_of(job: Job, numbers: Sequence[int]) -> Iterator[pa.RecordBatch]:
    """The rows of the first input that the numbered shards are made from, a batch each."""
    if not numbers:
        return
    wanted, size = set(numbers), job.config.shard_rows
    batches = job.inputs[job.stage.inputs[0]].batches(size, first_row=numbers[0] * size)
    for number, batch in enumerate(batches, start=numbers[0]):
        if number in wanted:
            yield batch
        if number == numbers[-1]:
            return


def settle_shard_size(job: Job) -> None:
    """A shard's number means rows only under the shard size it was cut with: another size starts the folder anew."""
    folder = job.output.folder
    if _marked_size(job) not in (None, str(job.config.shard_rows)):
        # Moved away whole: a folder half removed would lose its marker and keep shards of the old size.
        doomed = folder.with_name(f".{folder.name}.old")
        shutil.rmtree(doomed, ignore_errors=True)
        folder.rename(doomed)
        shutil.rmtree(doomed)
        folder.mkdir()
    _mark_shard_size(job)


def _mark_shard_size(job: Job) -> None:
    name, shard_rows, marked = job.stage.name, job.config.shard_rows, _marked_size(job)
    if shard_rows < 1:
        raise ConfigError(f"[{name}] shard_rows must be 1 or more, not {shard_rows}")
    if marked not in (None, str(shard_rows)):
        raise ConfigError(
            f"{name}: shards of {marked} rows are there already, and this slice would cut {shard_rows};"
            f" use --set {name}.shard_rows={marked}, or run the stage without --slice to begin anew"
        )
    if num_shards(job) > MOST_SHARDS:
        raise ConfigError(
            f"{name}: {job.rows_in:,} rows in shards of {shard_rows} would be {num_shards(job):,} files, and"
            f" {MOST_SHARDS:,} is the most; use --set {name}.shard_rows={-(-job.rows_in // 10_000)}"
        )
    write_atomically(job.output.folder / ".shard_rows", str(shard_rows).encode())


def forget_shard_size(job: Job) -> None:
    """Says of shards about to come that they are of no one size: a run that takes over begins anew.

    For who cuts a row-wise dataset otherwise and commits it in one go.
    """
    write_atomically(job.output.folder / ".shard_rows", UNEQUAL)


def _marked_size(job: Job) -> str | None:
    marker = job.output.folder / ".shard_rows"
    return marker.read_text() if marker.is_file() else None


def _count_rows(job: Job) -> Outcome:
    rows, total = 0, job.rows_in
    reasons: dict[str, int] = {}
    facts: dict[str, float] = {}
    for path in job.output.shards():
        rows += pq.read_metadata(path).num_rows
        if job.stage.schema is not None and "reason" in job.stage.schema.names:
            for row in pq.read_table(path, columns=["reason"], partitioning=None)["reason"].value_counts().to_pylist():
                if row["values"] is not None:
                    reasons[row["values"]] = reasons.get(row["values"], 0) + row["counts"]
        for name, amount in _facts_of(path).items():
            facts[name] = facts.get(name, 0) + amount
    rejected = sum(reasons.values())
    check_rejected_share(job, total, reasons)
    return Outcome(
        rows_in=total,
        rows_ok=rows - rejected,
        rows_rejected=rejected,
        rows_skipped=total - rows,
        reasons=reasons,
        details=facts,
    )


def _facts_of(shard: Path) -> dict[str, float]:
    path = _facts_path(shard)
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def _facts_path(shard: Path) -> Path:
    return shard.with_name(f".{shard.stem}.facts.json")
