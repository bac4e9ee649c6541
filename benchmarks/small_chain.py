"""The chain of DAGs at a size where orchestration shows: a few weeks of the tiny world, one seed, a few epochs.

Shared by the benchmarks of the schedules; nothing here is a claim.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dags.chain.names import BY_HAND, CHAIN, DAILY
from dags.laptop.bring_up import bring_up, take_down, wait_for_dags
from dags.laptop.home import Home

SOURCE = "tiny-world"
OVERRIDES = (
    "prompts.item_rows=60",
    "prompts.user_rows=20",
    "student.epochs=3",
    # A student of three epochs says nearly the same of everything.
    "publication.max_mean_cosine=1.0",
    "tuned_student.max_steps=10",
    "ctr_model.seeds=[1]",
    "ctr_model.max_epochs=1",
    "report.bootstrap_rounds=40",
)
PARAMS: Mapping[str, Any] = {"source": SOURCE, "preset": SOURCE, "overrides": list(OVERRIDES)}
ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "MSD_TEACHER_SLICES": "2",
    "MSD_EMBEDDING_SLICES": "2",
    "AIRFLOW_VAR_MSD_MIN_F1": "0",
    "AIRFLOW_VAR_MSD_MAX_AUC_LOSS": "1",
}
MSD = str(Path(sys.executable).with_name("msd"))


@contextmanager
def laptop(work: Path, variables: Mapping[str, str] | None = None) -> Iterator[Home]:
    """An Airflow of this work folder with the project's DAGs switched on, for as long as the block runs."""
    os.environ.update({**ENVIRONMENT, **(variables or {})})
    home = bring_up(work, Path(__file__).resolve().parents[1] / "dags")
    try:
        wait_for_dags(home, (*CHAIN, *BY_HAND, *DAILY))
        yield home
    finally:
        take_down(work)


def run_by_hand(work: Path, date: str) -> str:
    """The whole flow of a day by one command; returns the digest of its report."""
    options = [f"--set={override}" for override in OVERRIDES]
    command = [MSD, "run", "report", f"--date={date}", f"--source={SOURCE}", f"--preset={SOURCE}", *options]
    return digest(call([*command, "--json", f"--work={work}"]))


def report_digest(work: Path, date: str) -> str:
    """The digest of a day's report that is there."""
    return digest(call([MSD, "run", "report", "--only", "--json", f"--date={date}", f"--work={work}"]))


def call(command: Sequence[str], variables: Mapping[str, str] | None = None) -> str:
    """What a command prints; stops the benchmark where it fails."""
    environment = {**os.environ, **ENVIRONMENT, **(variables or {})}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        sys.exit(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr[-2000:]}")
    return done.stdout


def digest(printed: str) -> str:
    """The report's digest in what `msd run report --json` printed."""
    return json.loads(printed.splitlines()[-1])["stages"]["report"]["digest"]
