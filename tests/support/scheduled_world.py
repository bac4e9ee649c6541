"""A laptop's Airflow over a small tiny world: two days of it, a student of a few epochs, one seed."""

import json
import os
import shlex
import subprocess
import threading
import time
from collections.abc import Collection, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

import psutil

from dags.laptop.chain_run import CHAIN, ChainRun
from dags.laptop.rest import Airflow

FIRST, LAST = "2023-11-24", "2023-11-25"
OVERRIDES = (
    "prompts.item_rows=60",
    "prompts.user_rows=20",
    "prompts.near_duplicate=2.0",
    "student.epochs=3",
    "publication.max_mean_cosine=1.0",
    "tuned_student.max_steps=10",
    "ctr_model.seeds=[1]",
    "ctr_model.max_epochs=1",
    "report.bootstrap_rounds=40",
)
PARAMS = {"source": "tiny-world", "preset": "tiny-world", "overrides": list(OVERRIDES), "refresh_days": 2}
"""The second day goes on with the first one's teacher and student."""
VARIABLES = {
    "MSD_RETRY_SECONDS": "1",
    "MSD_RETRIES": "2",
    "MSD_SPARK_SLOTS": "2",
    "MSD_EMBEDDING_SLICES": "2",
    "AIRFLOW_VAR_MSD_MIN_F1": "0",
    "AIRFLOW_VAR_MSD_MAX_AUC_LOSS": "1",
    "OMP_NUM_THREADS": "1",
}
WAIT_SECONDS = 300.0
ASKING = ("deferred", "awaiting_input")
"""States of a task that waits for a person's answer."""


class SliceEnds:
    """Kills the command of one slice, once, as soon as it runs."""

    def __init__(self, words: Collection[str]) -> None:
        """Takes what stands in its command line."""
        self.killed = 0
        self._words = {*words}
        self._is_over = threading.Event()
        self._watching = threading.Thread(target=self._kill)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        if self._watching.ident:
            self._watching.join()

    def look(self, runs: list[ChainRun]) -> None:
        """Called by whoever follows the chain: the slice is near once the first day's student is made."""
        if runs[0].hops[CHAIN.index("distillation")].run and not self._watching.ident:
            self._watching.start()

    def _kill(self) -> None:
        while not self.killed and not self._is_over.wait(0.05):
            for process in psutil.process_iter():
                with suppress(psutil.Error):
                    if self._words <= {*process.cmdline()}:
                        process.kill()
                        self.killed = process.pid


def msd(*arguments: str, work: Path) -> subprocess.CompletedProcess[str]:
    """The command by hand, called as the scheduler calls it."""
    command = [*shlex.split(os.environ["MSD_COMMAND"]), *arguments, f"--work={work}"]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=WAIT_SECONDS)


def answer(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    """The JSON object that a call ended with."""
    assert done.stdout, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def active_generation(work: Path) -> str:
    """The one that readers are pointed at, as the canary found it."""
    return answer(msd("canary", "--rows=5", "--no-scan", "--json", work=work))["generation"]


def generation(work: Path, date: str) -> str:
    """The one that a day's publication made."""
    return json.loads((work / "partitions" / f"{date}.json").read_text())["fingerprints"]["publication"][:16]


def manifests(work: Path, date: str) -> dict[str, str]:
    """Stage → its manifest's text, of what is made of a day."""
    fingerprints = json.loads((work / "partitions" / f"{date}.json").read_text())["fingerprints"]
    paths = {name: work / name / value[:16] / "manifest.json" for name, value in fingerprints.items()}
    return {name: path.read_text() for name, path in paths.items() if path.is_file()}


def start(airflow: Airflow, dag: str, key: str | None, params: Mapping[str, Any]) -> str:
    """Starts a DAG by hand; returns the run's id."""
    body = {"logical_date": None, "conf": dict(params), "partition_key": key}
    return airflow.post(f"/dags/{dag}/dagRuns", body)["dag_run_id"]


def ended(airflow: Airflow, dag: str, run_id: str) -> dict[str, dict[str, Any]]:
    """Waits for a run; its tasks by name, and the run itself under the empty name."""
    deadline = time.monotonic() + WAIT_SECONDS
    while True:
        run = airflow.get(f"/dags/{dag}/dagRuns/{run_id}")
        if run["state"] in ("success", "failed"):
            return {"": run} | {task["task_id"]: task for task in airflow.tasks(dag, run_id)}
        assert time.monotonic() < deadline, f"{dag} is still {run['state']}"
        time.sleep(0.5)


def until_waiting(airflow: Airflow, dag: str, run_id: str, task: str) -> None:
    """Waits until a task asks a person."""
    deadline = time.monotonic() + WAIT_SECONDS
    while {each["task_id"]: each["state"] for each in airflow.tasks(dag, run_id)}[task] not in ASKING:
        assert time.monotonic() < deadline, f"{task} does not ask"
        time.sleep(0.5)


def now() -> datetime:
    """As Airflow tells times."""
    return datetime.now(UTC)
