"""What is said when a task fails or a DAG is late: one line of JSON with where, how far, and what to type next."""

import json
import logging
import shlex
from pathlib import Path
from typing import Any

LOG = logging.getLogger("msd.alerts")


def tell_failure(context: Any) -> None:
    """Says which task of which day failed for good, how many rows its dataset has, and the next command."""
    task, instance = context["task"], context["ti"]
    stages = list(getattr(task, "stages", None) or [])
    work, date = str(getattr(task, "work", "") or ""), str(getattr(task, "date", "") or "")
    line = {
        "event": "task_failed",
        "dag": instance.dag_id,
        "run": instance.run_id,
        "date": date or context.get("partition_key"),
        "task": instance.task_id,
        "map_index": instance.map_index,
        "tries": instance.try_number,
        "rows": {stage: rows_so_far(work, date, stage) for stage in stages},
        "error": (str(context.get("exception") or "").splitlines() or [""])[0],
        "next": next_command(task),
    }
    LOG.error("%s", json.dumps(line, ensure_ascii=False))


async def tell_late(context: Any = None, **facts: Any) -> None:
    """Says that a DAG run has not succeeded by its deadline, failed ones too; runs in the triggerer."""
    run = (context or {}).get("dag_run") or {}
    date = run.get("partition_key")
    line = {"event": "deadline_missed", **facts, "run": run.get("dag_run_id"), "state": run.get("state"), "date": date}
    if date:
        line["next"] = shlex.join(["msd", "list", f"--date={date}", f"--work={facts.get('work', 'work')}"])
    LOG.error("%s", json.dumps(line, ensure_ascii=False))


def rows_so_far(work: str, date: str, stage: str) -> int | None:
    """Rows of the day's dataset on disk, committed or not; None where the day was not opened."""
    # The callback also runs in processes that parse no DAG; Arrow is read where a task has failed and not before.
    import pyarrow.parquet as pq

    from pipeline.storage import FINGERPRINT_DIGITS

    record = Path(work) / "partitions" / f"{date}.json"
    if not record.is_file():
        return None
    fingerprint = json.loads(record.read_text(encoding="utf-8"))["fingerprints"].get(stage, "")
    folder = Path(work) / stage / fingerprint[:FINGERPRINT_DIGITS]
    return sum(pq.read_metadata(part).num_rows for part in folder.glob("part-*.parquet"))


def next_command(task: Any) -> str:
    """What a person types to see the failure for themselves: the task's own call, as a shell reads it."""
    stages = list(getattr(task, "stages", None) or [])
    if hasattr(task, "call"):
        words = ["msd", *task.call()[len(task.command) :]]
    elif stages and hasattr(task, "application"):
        words = ["spark-submit", task.application, *(task.application_args or [])]
    else:
        words = ["msd", "list", f"--date={getattr(task, 'date', '')}"]
    return shlex.join(words)
