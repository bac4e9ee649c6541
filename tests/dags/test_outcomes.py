"""What Airflow is told when a command ends: done with an answer, try again, or leave it."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.airflow
ROOT = Path(__file__).parents[2]
TRIED_AGAIN, LEFT = "AirflowException", "AirflowFailException"


def call(program: str) -> list[str]:
    return [sys.executable, "-c", f"import os, sys; {program}"]


CALLS = {
    "answers": call("print('table'); print('{\"rows\": 3}')"),
    "says nothing": call("pass"),
    "fails": call("print('msd: student: 3 rows lack vectors', file=sys.stderr); sys.exit(1)"),
    "is a wrong call": call("print('msd: no such source', file=sys.stderr); sys.exit(2)"),
    "answers no": call("print('{\"is_open\": false}'); sys.exit(1)"),
    "is killed": call("os.kill(os.getpid(), 9)"),
    "is not there": ["/nowhere/msd"],
}


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    home = tmp_path_factory.mktemp("outcomes")
    submit = home / "bin" / "spark-submit"
    submit.parent.mkdir()
    submit.write_text('#!/bin/sh\necho "$@"\nexit 2\n')
    submit.chmod(0o755)
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("MSD_", "AIRFLOW"))}
    settings = {
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW_VAR_MSD_APPROVAL": "True",
        "AIRFLOW_CONN_SPARK_DEFAULT": '{"conn_type": "spark", "host": "local[1]"}',
        "PATH": f"{submit.parent}:{inherited['PATH']}",
        "PYTHONPATH": str(ROOT),
    }
    ended = subprocess.run(
        [sys.executable, str(ROOT / "tests/support/task_outcomes.py")],
        input=json.dumps({"calls": list(CALLS.values())}),
        env=inherited | settings,
        cwd=home,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    outcomes = json.loads(ended.stdout.splitlines()[-1])
    return dict(zip([*CALLS, "submit"], outcomes["tasks"], strict=True)) | {"guards": outcomes["guards"]}


def test_the_answer_is_what_the_task_returns(told: dict[str, Any]) -> None:
    assert told["answers"] == {"returned": {"rows": 3}}
    assert told["says nothing"] == {"returned": None}


@pytest.mark.parametrize("case", ["fails", "is killed"])
def test_a_failure_is_tried_again(told: dict[str, Any], case: str) -> None:
    assert told[case]["raised"] == TRIED_AGAIN


@pytest.mark.parametrize("case", ["is a wrong call", "answers no", "is not there", "submit"])
def test_what_no_repetition_mends_is_left(told: dict[str, Any], case: str) -> None:
    assert told[case]["raised"] == LEFT


def test_the_reason_is_the_commands_own_sentence(told: dict[str, Any]) -> None:
    assert told["fails"]["said"].endswith("exit code 1: msd: student: 3 rows lack vectors")
    assert "--date=2026-11-20" in told["submit"]["said"]
    assert "MSD_COMMAND" in told["is not there"]["said"]


def test_readers_are_taken_back_only_from_what_failed_its_check(told: dict[str, Any]) -> None:
    """Where a gate closed, check_online is upstream_failed, which one_failed takes for a failure too."""
    assert told["guards"]["rollback"] == [True, False, False, False]


def test_a_run_asks_for_approval_or_the_variable_does(told: dict[str, Any]) -> None:
    assert told["guards"]["approval"] == [True, False, True]
