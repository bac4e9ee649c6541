"""Run in a fresh interpreter: runs real operators on small programs and prints what Airflow is told of each.

`{"calls": [[word, …], …], "submit": exit code}` on stdin; each call stands for the command, words and all; a
`spark-submit` that ends with the exit code must be first on the PATH.
"""

import json
import logging
import os
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any


def main() -> None:
    """Prints one outcome for each call, and one for the submit."""
    warnings.simplefilter("ignore")
    from dags.chain.deployment import read_deployment
    from dags.chain.operators import MsdOperator, SparkStageOperator

    logging.disable(logging.CRITICAL)
    asked = json.loads(sys.stdin.read())
    instance = SimpleNamespace(dag_id="d", run_id="r", task_id="t", try_number=1)
    work = str(Path.cwd() / "work")
    told = []
    for words in asked["calls"]:
        operator = MsdOperator(task_id="t", arguments=[], command=words, work=work)
        told.append(_outcome(operator, {"ti": instance}))
    where = read_deployment(os.environ)
    submit = SparkStageOperator(task_id="s", application="x.py", stages=("items",), where=where, date="2026-11-20")
    told.append(_outcome(submit, {"ti": instance}))
    sys.stdout.write(json.dumps({"tasks": told, "guards": _guards()}) + "\n")


def _guards() -> dict[str, list[bool]]:
    """Which of the tasks that are left out at times would run."""
    from airflow.sdk.exceptions import AirflowSkipException

    from dags.chain.choices import skip_unless_approval, skip_unless_check_failed

    def runs(guard: Any, context: dict[str, Any]) -> bool:
        try:
            guard(context)
        except AirflowSkipException:
            return False
        return True

    return {
        "rollback": [runs(skip_unless_check_failed, {"ti": Checked(state)}) for state in CHECK_STATES],
        "approval": [runs(skip_unless_approval, {"params": {"approval": chosen}}) for chosen in (True, False, None)],
    }


CHECK_STATES = ("failed", "upstream_failed", "success", None)


@dataclass
class Checked:
    """A task instance in a run whose check_online has come to some state."""

    state: str | None
    dag_id: str = "publication"
    run_id: str = "r"

    def get_task_states(self, dag_id: str, task_ids: list[str], run_ids: list[str]) -> dict[str, Any]:
        """As Airflow answers: by run, then by task."""
        assert (dag_id, task_ids, run_ids) == (self.dag_id, ["check_online"], [self.run_id])
        return {self.run_id: {"check_online": self.state}} if self.state else {}


def _outcome(operator: Any, context: dict[str, Any]) -> dict[str, Any]:
    from airflow.sdk.bases.operator import ExecutorSafeguard

    known = {f"{type(operator).__name__}__sentinel": ExecutorSafeguard.sentinel_value}
    try:
        return {"returned": operator.execute(context, **known)}
    except Exception as error:
        return {"raised": type(error).__name__, "said": str(error)}


if __name__ == "__main__":
    main()
