"""`msd audit`: whether any example knows its future, asked of the committed files as they are now.

The dataset `audit` is made once, like every other; this looks again, so that a file changed since is found too.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from pipeline.errors import StageError
from pipeline.job import Job, load
from pipeline.progress import note
from pipeline.runner import Plan
from pipeline.storage import Dataset, file_digest, write_shard

MAKER_OF = {
    "history": "histories",
    "user_vector": "user_vectors",
    "item_vector": "item_vectors",
    "prompt": "prompts",
    "frequency": "item_stats",
    "split": "examples",
}
"""Kind of leak → the dataset in which it lies."""
SHOWN_ROWS = 10


@dataclass(frozen=True, kw_only=True)
class Findings:
    """What the audit found."""

    examined: int
    """Examples."""
    counts: Mapping[str, int]
    """Kind of leak → examples it is behind."""
    rows: pa.Table
    """AUDIT: of each kind the first max_named."""
    path: Path
    """Where the rows were written."""


def examine(plan: Plan) -> Findings:
    """Audits the committed datasets and writes `audit/audit.parquet` into the work folder.

    Raises:
        StageError: a dataset the audit needs is not made yet.
    """
    stage = plan.stages["audit"]
    missing = [name for name in stage.inputs if plan.dataset(name).manifest is None]
    if missing:
        raise StageError(f"audit needs {', '.join(missing)} first; run: msd run {' '.join(missing)}")
    inputs = {name: plan.dataset(name) for name in stage.inputs}
    job = Job(
        stage=stage, config=plan.settings["audit"], source=plan.source, inputs=inputs, output=plan.dataset("audit")
    )
    counted = (inputs["examples"].num_rows(), inputs["interactions"].num_rows())
    note("audit: {:,} examples against {:,} events".format(*counted))
    rows, details = load("spark_jobs.execute:look")(job)
    path = plan.workspace.root / "audit" / "audit.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_shard(path, rows)
    return Findings(examined=details["examined"], counts=details["leaks"], rows=rows, path=path)


def lines(findings: Findings) -> Iterator[str]:
    """The counts by kind, then the first rows of each."""
    if not findings.counts:
        yield f"{findings.examined:,} examples examined; nothing behind them knows their future"
        return
    told = ", ".join(f"{kind} {count:,}" for kind, count in findings.counts.items())
    yield f"{findings.examined:,} examples examined; behind these is what they could not know: {told}"
    for kind in findings.counts:
        of_kind = [row for row in findings.rows.to_pylist() if row["leak"] == kind]
        for row in of_kind[:SHOWN_ROWS]:
            at = row["event_at"].strftime("%Y-%m-%d %H:%M:%S")
            who = f"event {row['event_id']} ({row['split']}, {at}): user {row['user_id']}, item {row['item_id']}"
            yield f"  {kind}  {who}: {row['evidence']}"
        if findings.counts[kind] > SHOWN_ROWS:
            yield f"  {kind}  and {findings.counts[kind] - SHOWN_ROWS:,} more"


def check(plan: Plan, findings: Findings) -> None:
    """Ends the command where something leaks.

    Raises:
        StageError: examples know their future; names the datasets and whether their files were changed.
    """
    if not findings.counts:
        return
    blamed = [plan.dataset(MAKER_OF[kind]) for kind in findings.counts]
    told = "; ".join(_told(dataset) for dataset in blamed)
    raise StageError(
        f"audit: {sum(findings.counts.values()):,} leaks behind {findings.examined:,} examples: {told}; all rows are in"
        f" {findings.path}; remove the folders named and make them anew: msd run audit report"
    )


def _told(dataset: Dataset) -> str:
    files = (dataset.manifest or {}).get("files", {})
    changed = [
        name
        for name, digest in files.items()
        if not (dataset.folder / name).is_file() or file_digest(dataset.folder / name) != digest
    ]
    since = f", changed since it was made ({', '.join(changed[:3])})" if changed else ""
    return f"{dataset.name}{since} in {dataset.folder}"
