"""Brings the four processes up and takes them down; two who want the same Airflow at once get the same one."""

import json
import time
from collections.abc import Collection
from importlib import metadata
from pathlib import Path

from dags.laptop.home import Home, find_home, folder_of, make_home
from dags.laptop.rest import Airflow
from dags.laptop.services import (
    SERVICES,
    PortTaken,
    bootstrap,
    check_alive,
    held,
    listens,
    running,
    start_missing,
    stop_all,
)
from pipeline.errors import ServiceError, UsageError
from pipeline.progress import note
from pipeline.storage import write_atomically

START_SECONDS = 180.0
PARSE_SECONDS = 120.0
POLL_SECONDS = 0.5
PARTS = ("metadatabase", "scheduler", "dag_processor", "triggerer")


def bring_up(work: Path, dags: Path, port: int | None = None) -> Home:
    """An Airflow that answers; the one that runs already where there is one.

    Args:
        work: the work folder of the datasets; Airflow's own files lie in its folder `airflow`.
        dags: the folder of DAG files.
        port: of the UI; None takes 8080 or another that is free.

    Raises:
        UsageError: the call does not fit the Airflow that runs already.
        ServiceError: it does not come up.
    """
    if work.exists() and not work.is_dir():
        raise UsageError(f"--work {work} is a file; name a folder")
    folder = folder_of(work)
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    with held(folder):
        home = find_home(work)
        if home is not None and any(running(home, name) for name in SERVICES):
            _check_same(home, dags, port)
        else:
            home = make_home(work, dags, port)
            _bootstrap_once(home)
        try:
            _start(home)
        except PortTaken:
            if port is not None:
                raise
            note(f"another program took port {home.port} meanwhile; trying another one")
            stop_all(home)
            home = make_home(work, dags, None)
            _start(home)
    return home


def take_down(work: Path) -> int:
    """Ends an Airflow and everything it started; returns how many processes that were, 0 where none ran."""
    home = find_home(work)
    if home is None:
        return 0
    with held(home.folder):
        return stop_all(home)


def wait_for_dags(home: Home, wanted: Collection[str]) -> None:
    """Waits until the scheduler knows these DAGs, and switches their schedules on.

    Raises:
        ServiceError: a DAG file does not load, or a DAG is in none of them.
    """
    airflow = Airflow(home.url)
    deadline = time.monotonic() + PARSE_SECONDS
    while True:
        known = {dag["dag_id"]: dag["is_paused"] for dag in airflow.get("/dags", limit=100)["dags"]}
        if known.keys() >= set(wanted):
            break
        broken = airflow.get("/importErrors")["import_errors"]
        if broken:
            last = broken[0]["stack_trace"].strip().splitlines()[-1]
            raise ServiceError(f"{broken[0]['filename']} does not load: {last}; mend it, then: make airflow")
        if time.monotonic() > deadline:
            missing = ", ".join(sorted(set(wanted) - known.keys()))
            raise ServiceError(
                f"no file of {home.dags} has a DAG {missing}; Airflow found {', '.join(known) or 'none'}"
            )
        check_alive(home)
        time.sleep(POLL_SECONDS)
    for name in wanted:
        if known[name]:
            airflow.patch(f"/dags/{name}", {"is_paused": False})


def _start(home: Home) -> None:
    started = start_missing(home)
    if started:
        note(f"starting {', '.join(started)} (half a minute); logs: {home.folder}")
    _wait_healthy(home)


def _check_same(home: Home, dags: Path, port: int | None) -> None:
    wanted, runs = (str(dags.resolve()), port or home.port), (str(home.dags), home.port)
    if wanted != runs:
        raise UsageError(
            f"an Airflow of this work folder runs already, with the DAGs of {home.dags} at {home.url}; stop it first:"
            f" make airflow-stop WORK={home.work}"
        )


def _bootstrap_once(home: Home) -> None:
    mark, version = home.folder / "database.json", metadata.version("apache-airflow-core")
    if mark.is_file() and json.loads(mark.read_text(encoding="utf-8"))["airflow"] == version:
        return
    note("making Airflow's metadata database, its pools and its Spark connection")
    bootstrap(home)
    write_atomically(mark, json.dumps({"airflow": version}).encode())


def _wait_healthy(home: Home) -> None:
    airflow = Airflow(home.url)
    deadline = time.monotonic() + START_SECONDS
    while True:
        check_alive(home)
        well = airflow.healthy()
        if all(well.get(part) for part in PARTS) and listens(home):
            return
        if time.monotonic() > deadline:
            ill = ", ".join(part for part in PARTS if not well.get(part))
            raise ServiceError(f"not well after {START_SECONDS:.0f} s: {ill}; the logs: {home.folder}/*.log")
        time.sleep(POLL_SECONDS)
