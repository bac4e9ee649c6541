import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
Facts = dict[str, Any]


@pytest.fixture(scope="session")
def parse_dags(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Facts]:
    """Parses the DAG folder in a process of its own: `parse(variables, params=…, airflow_variables=…, key=…)`."""
    home = tmp_path_factory.mktemp("airflow")

    def parse(environment: dict[str, str] | None = None, **asked: Any) -> Facts:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("MSD_", "AIRFLOW"))}
        settings = {
            "AIRFLOW_HOME": str(home),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__CORE__DAGS_FOLDER": str(ROOT / "dags"),
            "AIRFLOW__LOGGING__LOGGING_LEVEL": "ERROR",
            "MSD_WORK": "/work-of/the tests",
        }
        ended = subprocess.run(
            [sys.executable, str(ROOT / "tests/support/dag_facts.py")],
            input=json.dumps(asked),
            env=inherited | settings | (environment or {}),
            cwd=home,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert ended.returncode == 0, ended.stderr
        return json.loads(ended.stdout.splitlines()[-1])

    return parse


@pytest.fixture(scope="session")
def parsed(parse_dags: Callable[..., Facts]) -> Facts:
    """The folder as it is parsed on a machine where nothing is set."""
    return parse_dags(params={"date": "2026-11-20"})
