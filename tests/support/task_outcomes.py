"""Run in a fresh interpreter: runs real operators on small programs and prints what Airflow is told of each.

`{"calls": [[word, …], …], "submit": exit code}` on stdin; each call stands for the command, words and all; a
`spark-submit` that ends with the exit code must be first on the PATH.
"""

import json
import logging
import os
import sys
import warnings
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
    sys.stdout.write(json.dumps(told) + "\n")


def _outcome(operator: Any, context: dict[str, Any]) -> dict[str, Any]:
    from airflow.sdk.bases.operator import ExecutorSafeguard

    known = {f"{type(operator).__name__}__sentinel": ExecutorSafeguard.sentinel_value}
    try:
        return {"returned": operator.execute(context, **known)}
    except Exception as error:
        return {"raised": type(error).__name__, "said": str(error)}


if __name__ == "__main__":
    main()
