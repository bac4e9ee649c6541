"""Where things run: the one place that reads environment variables, each time a DAG file is parsed.

They are facts of a deployment, the same for every run of it; what may differ from run to run is a Param (choices.py).

| variable | what it says |
|---|---|
| `MSD_WORK` | the work folder, the same for every machine; `work` in the current folder if unset |
| `MSD_COMMAND` | how a task calls the command, as a shell would split it; the `msd` beside this Python if unset |
| `MSD_TEACHER_SLICES`, `MSD_EMBEDDING_SLICES` | tasks that make teacher_outputs, and each table of vectors (1) |
| `MSD_EMBED_ON` | `machine`: slices of vectors as commands; `spark`: inside the executors of a cluster |
| `MSD_TABLES_TOGETHER` | `yes`: one spark-submit for a DAG's tables that need nothing else; `no`: one for each (`no`) |
| `MSD_SPARK_JOBS` | the folder of the files that spark-submit is given; the installed `spark_jobs` if unset |
| `MSD_PY_FILES`, `MSD_ARCHIVES` | code (a `msd.zip` beside the jobs if unset) and environment that spark-submit sends |
| `MSD_POD_TEMPLATES` | a folder of `<room>.yaml`: what a task's pod is made from under a Kubernetes executor |
| `MSD_SOURCE`, `MSD_PRESET`, `MSD_REFRESH_DAYS` | what a scheduled day is opened with (movielens-100k, small, 1) |
| `MSD_RETRIES`, `MSD_RETRY_SECONDS` | how often a task is tried again, and the first pause, which doubles (3, 30) |
| `MSD_TIME_FACTOR` | what every time limit and deadline is multiplied by (1.0) |
| `MSD_DAILY` | `yes`: days begin by themselves; `no`: only when asked, by hand or as a backfill (`yes`) |
| `MSD_OWNER` | whom Airflow names as the owner of the tasks (`ctr-platform`) |
"""

import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from importlib.util import find_spec
from pathlib import Path

from pipeline.errors import ConfigError


class EmbedOn(StrEnum):
    """Where texts become vectors."""

    MACHINE = "machine"
    SPARK = "spark"


@dataclass(frozen=True, kw_only=True)
class Deployment:
    """The table above, read and checked."""

    work: str
    command: tuple[str, ...]
    teacher_slices: int
    embedding_slices: int
    embed_on: EmbedOn
    tables_together: bool
    spark_jobs: str
    py_files: str | None
    archives: str | None
    pod_templates: Path | None
    source: str
    preset: str
    refresh_days: int
    retries: int
    retry_seconds: float
    time_factor: float
    is_daily: bool
    owner: str


def read_deployment(variables: Mapping[str, str]) -> Deployment:
    """The deployment that the variables describe.

    Raises:
        ConfigError: a variable has a value it cannot have; Airflow shows it as the file's import error.
    """
    templates = variables.get("MSD_POD_TEMPLATES", "")
    jobs = variables.get("MSD_SPARK_JOBS") or _installed_jobs()
    return Deployment(
        work=str(Path(variables.get("MSD_WORK") or "work").absolute()),
        command=_command(variables.get("MSD_COMMAND", "")),
        teacher_slices=_whole(variables, "MSD_TEACHER_SLICES", 1, 1),
        embedding_slices=_whole(variables, "MSD_EMBEDDING_SLICES", 1, 1),
        embed_on=_embed_on(variables.get("MSD_EMBED_ON") or EmbedOn.MACHINE),
        tables_together=_yes(variables, "MSD_TABLES_TOGETHER", "no"),
        spark_jobs=jobs,
        py_files=variables.get("MSD_PY_FILES") or _packed_beside(jobs),
        archives=variables.get("MSD_ARCHIVES") or None,
        pod_templates=Path(templates) if templates else None,
        source=variables.get("MSD_SOURCE") or "movielens-100k",
        preset=variables.get("MSD_PRESET") or "small",
        refresh_days=_whole(variables, "MSD_REFRESH_DAYS", 1, 1),
        retries=_whole(variables, "MSD_RETRIES", 3, 0),
        retry_seconds=_number(variables, "MSD_RETRY_SECONDS", 30),
        time_factor=_number(variables, "MSD_TIME_FACTOR", 1),
        is_daily=_yes(variables, "MSD_DAILY", "yes"),
        owner=variables.get("MSD_OWNER") or "ctr-platform",
    )


def _command(text: str) -> tuple[str, ...]:
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise ConfigError(f"MSD_COMMAND={text}: {error}; write it as a shell would read it") from error
    return tuple(words) or (str(Path(sys.executable).with_name("msd")),)


def _embed_on(text: str) -> EmbedOn:
    try:
        return EmbedOn(text)
    except ValueError as error:
        raise ConfigError(f"MSD_EMBED_ON={text}: {' or '.join(EmbedOn)} is wanted") from error


def _installed_jobs() -> str:
    # Found, not imported: importing a job would import Spark.
    found = find_spec("spark_jobs")
    places = list(found.submodule_search_locations or []) if found else []
    return places[0] if places else "spark_jobs"


def _packed_beside(jobs: str) -> str | None:
    """The archive that `python -m spark_jobs.package` puts beside the job files."""
    packed = Path(jobs) / "msd.zip"
    return str(packed) if packed.is_file() else None


def _yes(variables: Mapping[str, str], name: str, default: str) -> bool:
    text = variables.get(name) or default
    if text not in ("yes", "no"):
        raise ConfigError(f"{name}={text}: yes or no is wanted")
    return text == "yes"


def _whole(variables: Mapping[str, str], name: str, default: int, at_least: int) -> int:
    text = variables.get(name) or str(default)
    if not text.isdecimal() or int(text) < at_least:
        raise ConfigError(f"{name}={text}: a whole number of {at_least} or more is wanted")
    return int(text)


def _number(variables: Mapping[str, str], name: str, default: float) -> float:
    text = variables.get(name) or str(default)
    try:
        number = float(text)
    except ValueError as error:
        raise ConfigError(f"{name}={text}: a number is wanted") from error
    if not 0 < number < float("inf"):
        raise ConfigError(f"{name}={text}: a number above 0 is wanted")
    return number
