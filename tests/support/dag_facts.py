"""Run in a fresh interpreter: parses the DAG folder as Airflow does and prints what the tests ask about, as JSON.

A process of its own, since importing Airflow sets up logging, folders and warnings for whoever does it. Reads
{"params", "variables", "key"} on stdin: what templates are rendered with.
"""

import json
import logging
import os
import sys
import warnings
from pathlib import Path
from typing import Any

HEAVY = (
    "duckdb",
    "feast",
    "kubernetes",
    "pandas",
    "peft",
    "pyspark",
    "redis",
    "sklearn",
    "torch",
    "transformers",
    "vllm",
)


def main() -> None:
    """Prints the facts."""
    warnings.simplefilter("ignore")
    from airflow.dag_processing.dagbag import BundleDagBag

    logging.disable(logging.CRITICAL)
    asked = json.loads(sys.stdin.read() or "{}")
    folder = Path(os.environ["AIRFLOW__CORE__DAGS_FOLDER"])
    before = set(sys.modules)
    with open(os.devnull, "w") as nowhere:
        printed, sys.stdout = sys.stdout, nowhere
        bag = BundleDagBag(folder, bundle_name="dags-folder", bundle_path=folder)
        imported = {name.partition(".")[0] for name in set(sys.modules) - before}
        dags = {dag_id: _dag_facts(dag, asked) for dag_id, dag in bag.dags.items()}
        sys.stdout = printed
    facts = {
        "errors": dict(bag.import_errors),
        "heavy": sorted(imported & set(HEAVY)),
        "files": {stat.file: stat.duration.total_seconds() for stat in bag.dagbag_stats},
        "dags": dags,
    }
    sys.stdout.write(json.dumps(facts) + "\n")


def _dag_facts(dag: Any, asked: dict[str, Any]) -> dict[str, Any]:
    from airflow.serialization.serialized_objects import DagSerialization

    timetable = dag.timetable
    assets = getattr(timetable, "asset_condition", None)
    context = _context(dag, asked)
    return {
        "timetable": type(timetable).__name__,
        "started_by": [assets.name] if assets is not None else [],
        "cron": getattr(timetable, "expression", None),
        "key_format": getattr(timetable, "key_format", None),
        "doc": dag.doc_md or "",
        "description": dag.description,
        "tags": sorted(dag.tags),
        "catchup": dag.catchup,
        "max_active_runs": dag.max_active_runs,
        "deadlines": len(dag.deadline or []),
        "params": {name: dag.params.get_param(name).schema for name in dag.params},
        "serialized": bool(DagSerialization.to_dict(dag)),
        "tasks": {task.task_id: _task_facts(dag, task, context) for task in dag.tasks},
    }


def _context(dag: Any, asked: dict[str, Any]) -> dict[str, Any]:
    given = {name: value for name, value in asked.get("params", {}).items() if name in dag.params}
    params = {name: dag.params.get_param(name).value for name in dag.params} | given
    variables = asked.get("variables", {})
    return {"partition_key": asked.get("key", "2026-11-20"), "params": params, "var": {"value": variables}}


def _task_facts(dag: Any, task: Any, context: dict[str, Any]) -> dict[str, Any]:
    pause = task.retry_delay
    return {
        "type": type(task).__name__,
        "mapped": task.is_mapped,
        "downstream": sorted(task.downstream_task_ids),
        "upstream": sorted(task.upstream_task_ids),
        "ancestors": sorted(task.get_flat_relative_ids(upstream=True)),
        "owner": task.owner,
        "retries": task.retries,
        "retry_seconds": pause.total_seconds() if pause else 0,
        "backoff": task.retry_exponential_backoff,
        "max_pause": task.max_retry_delay.total_seconds() if task.max_retry_delay else 0,
        "timeout": task.execution_timeout.total_seconds() if task.execution_timeout else 0,
        "response_timeout": getattr(getattr(task, "response_timeout", None), "total_seconds", lambda: 0)(),
        "pool": task.pool,
        "trigger_rule": str(task.trigger_rule),
        "setup": task.is_setup,
        "teardown": task.is_teardown,
        "tells_failure": bool(task.on_failure_callback),
        "outlets": [asset.name for asset in task.outlets],
        "doc": task.doc_md or "",
        "pod": (task.executor_config or {}).get("pod_template_file"),
        "pushes": task.do_xcom_push if not task.is_mapped else True,
        "stages": list(getattr(task, "stages", None) or task_kwargs(task).get("stages") or []),
        "calls": [_rendered(dag, one, context) for one in _unmapped(task)],
    }


def task_kwargs(task: Any) -> dict[str, Any]:
    """What a mapped task gives to each of its instances."""
    return task.partial_kwargs if task.is_mapped else {}


def _unmapped(task: Any) -> list[Any]:
    if not task.is_mapped:
        return [task]
    return [task.unmap({"arguments": arguments}) for arguments in task.expand_input.value["arguments"]]


def _rendered(dag: Any, task: Any, context: dict[str, Any]) -> list[str]:
    task.render_template_fields(dict(context), dag.get_template_env())
    if hasattr(task, "call"):
        return task.call() if task.when == "True" else []
    if hasattr(task, "submitting"):
        submitted = task.submitting()
        return [submitted.application, *submitted.application_args, submitted.name]
    return []


if __name__ == "__main__":
    main()
