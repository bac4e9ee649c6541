"""What `msd list` and `msd show` print, from manifests and Parquet footers."""

from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console, JustifyMethod
from rich.table import Table

from pipeline import schemas
from pipeline.errors import StageError
from pipeline.estimate import Estimate
from pipeline.job import load
from pipeline.runner import Plan, make_job
from pipeline.stages import STAGES
from pipeline.storage import Dataset

CELL_CHARACTERS = 120


def list_stages(plan: Plan) -> None:
    """Prints one line per stage: state, rows, rejects, seconds."""
    console = Console(highlight=False)
    table = Table(title=f"{plan.source.name} in {plan.workspace.root.name}/", title_justify="left", box=None)
    for column in ("dataset", "state", "rows", "rejected", "seconds"):
        justify: JustifyMethod = "right" if column in ("rows", "rejected", "seconds") else "left"
        table.add_column(column, justify=justify, no_wrap=True)
    table.add_column("what it is")
    for stage in STAGES:
        dataset = plan.dataset(stage.name)
        manifest = dataset.manifest
        if manifest is None:
            state = "unfinished" if dataset.folder.is_dir() and any(dataset.folder.iterdir()) else "not made"
            table.add_row(stage.name, state, "", "", "", stage.summary)
            continue
        counts = (f"{manifest['rows_ok']:,}", f"{manifest['rows_rejected']:,}", f"{manifest['seconds']:.1f}")
        table.add_row(stage.name, "made", *counts, stage.summary)
    console.print(table)


FACTS = ("rows_in", "rows_ok", "rows_rejected", "rows_skipped", "seconds", "created_at")


def facts(plan: Plan, names: Sequence[str]) -> dict[str, Any]:
    """What another program is told of committed datasets: names, places and counts, no rows."""
    stages = {}
    for name in names:
        dataset = plan.dataset(name)
        manifest = dataset.manifest
        if manifest is None:
            raise StageError(f"{name} is not made yet; run: msd run {name}")
        place = {"dataset": name, "fingerprint": dataset.fingerprint, "folder": str(dataset.folder)}
        stages[name] = place | {key: manifest[key] for key in FACTS}
        if "digest" in manifest["details"]:
            stages[name]["digest"] = manifest["details"]["digest"]
    return {"date": plan.date or None, "stages": stages}


def slice_facts(plan: Plan, name: str, slice_: str) -> dict[str, Any]:
    """The same of a part of a dataset that was made."""
    fingerprint = plan.dataset(name).fingerprint
    return {"date": plan.date or None, "dataset": name, "fingerprint": fingerprint, "slice": slice_}


def print_estimates(plan: Plan, names: list[str], *, measure: bool) -> None:
    """Prints what each named dataset would cost: rows left, tokens, seconds, memory online, and how that is known.

    Args:
        plan: the datasets.
        names: of stages.
        measure: a stage may generate a few rows to learn this machine's pace.

    Raises:
        StageError: an input that must be counted is not made yet.
    """
    console = Console(highlight=False)
    table = Table(box=None)
    for column in ("dataset", "state", "rows", "left", "tokens in", "tokens out", "seconds", "MiB"):
        table.add_column(column, justify="left" if column in ("dataset", "state") else "right", no_wrap=True)
    notes: list[str] = []
    for name in names:
        stage, dataset = plan.stages[name], plan.dataset(name)
        manifest = dataset.manifest
        if manifest is not None:
            table.add_row(name, "made", f"{manifest['rows_in']:,}", "0", "", "", "", "")
        elif stage.planner is None:
            first = plan.dataset(stage.inputs[0]) if stage.inputs else None
            rows = f"{first.num_rows():,}" if first is not None and first.manifest is not None and first.schema else "?"
            table.add_row(name, "to be made", rows, rows, "", "", "", "")
        else:
            cost: Estimate = load(stage.planner)(make_job(plan, stage), measure=measure)
            seconds = "?" if cost.seconds is None else f"{cost.seconds:,.0f}"
            mebibytes = "" if cost.bytes is None else f"{cost.bytes / 2**20:,.1f}"
            counts = (cost.rows, cost.rows_left, cost.prompt_tokens, cost.output_tokens)
            table.add_row(name, "to be made", *(f"{count:,}" for count in counts), seconds, mebibytes)
            notes += [f"{name}: {told}" for told in cost.notes]
    console.print(table)
    for told in notes:
        console.print(told, markup=False)


def show_dataset(dataset: Dataset, num_rows: int, *, rejected: bool) -> None:
    """Prints the columns, the manifest's facts and the first rows; rejected ones of an unfinished dataset, too.

    Raises:
        StageError: the dataset is not made yet, and has no rejected rows to show.
    """
    console = Console(highlight=False)
    manifest = dataset.manifest
    refused = _rejected_rows(dataset, num_rows) if rejected else []
    if manifest is None and not refused:
        raise StageError(f"{dataset.name} is not made yet; run: msd run {dataset.name}")
    if manifest is not None:
        _print_facts(console, manifest)
    if rejected:
        _print_rows(console, refused)
    elif dataset.schema is not None:
        _print_columns(console, dataset.schema)
        _print_rows(console, _rows(dataset, "part-*.parquet", num_rows))
    elif manifest is not None:
        for name in manifest["files"]:
            console.print(f"  {name}", markup=False)


def _print_facts(console: Console, manifest: Mapping[str, Any]) -> None:
    told = (
        "dataset",
        "fingerprint",
        "source",
        "created_at",
        "seconds",
        "rows_in",
        "rows_ok",
        "rows_rejected",
        "rows_skipped",
        "reasons",
        "inputs",
        "settings",
        "details",
    )
    for key in told:
        if manifest.get(key) not in (None, {}, []):
            console.print(f"{key}: {_cell(manifest[key])}", markup=False)


def _print_columns(console: Console, schema: pa.Schema) -> None:
    table = Table(title="columns", title_justify="left")
    for column in ("column", "type", "meaning"):
        table.add_column(column)
    for row in schemas.describe(schema):
        table.add_row(*row)
    console.print(table)


def _rows(dataset: Dataset, pattern: str, num_rows: int, *, only_rejected: bool = False) -> list[dict[str, Any]]:
    batches = (
        batch
        for path in sorted(dataset.folder.glob(pattern))
        for batch in pq.ParquetFile(path).iter_batches(batch_size=max(num_rows, 1))
    )
    rows = (row for batch in batches for row in batch.to_pylist(maps_as_pydicts="lossy"))
    return list(islice((row for row in rows if not only_rejected or row["reason"] is not None), num_rows))


def _rejected_rows(dataset: Dataset, num_rows: int) -> list[dict[str, Any]]:
    """Row-wise stages keep them among the others, table stages in a folder of their own."""
    if dataset.schema is not None and "reason" in dataset.schema.names:
        return _rows(dataset, "part-*.parquet", num_rows, only_rejected=True)
    return _rows(dataset, "rejected/part-*.parquet", num_rows)


def _print_rows(console: Console, rows: list[dict[str, Any]]) -> None:
    for number, row in enumerate(rows, start=1):
        console.print(f"row {number}", style="bold", markup=False)
        for name, value in row.items():
            console.print(f"  {name}: {_cell(value)}", markup=False)


def _cell(value: Any) -> str:
    text = str(value)
    return text if len(text) <= CELL_CHARACTERS else text[:CELL_CHARACTERS] + f" … ({len(text):,} characters)"
