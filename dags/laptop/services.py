"""Starts and ends the four processes of an Airflow: each leads a session of its own and is known by a mark.

`airflow standalone` would be one command, at twice the memory, on all interfaces, with children that outlive it.
"""

import fcntl
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from dags.laptop.home import MARK, Home, environment
from pipeline.errors import ServiceError
from pipeline.progress import note

SERVICES: dict[str, tuple[str, ...]] = {
    "api-server": (),
    "scheduler": ("--skip-serve-logs",),
    "dag-processor": (),
    "triggerer": ("--skip-serve-logs",),
}
SERVICE = "MSD_LAPTOP_SERVICE"
"""Which of the four a process is, or belongs to."""
TERM_SECONDS = 15.0
"""What a process has to end by itself; a Redis saves its data in this time."""
KILL_ROUNDS = 5
BOOTSTRAP_SECONDS = 300.0
LOG_LINES = 8
_STARTED: list["subprocess.Popen[bytes]"] = []
"""They are to outlive us; Python warns of such a process when the last name for it is gone."""


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Nobody else brings this Airflow up or down meanwhile; waits for whoever does."""
    with (folder / "laptop.lock").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            note("another command is bringing this Airflow up or down; waiting for it")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def bootstrap(home: Home) -> None:
    """Makes the metadata database with what the DAGs expect in it, or brings one of an older Airflow up to date.

    Raises:
        ServiceError: Airflow cannot.
    """
    log = home.folder / "bootstrap.log"
    with log.open("w", encoding="utf-8") as file:
        command = [sys.executable, "-m", "dags.laptop.bootstrap"]
        done = subprocess.run(
            command,
            env=environment(home),
            cwd=home.folder,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            timeout=BOOTSTRAP_SECONDS,
            check=False,
        )
    if done.returncode != 0:
        raise ServiceError(f"Airflow's database cannot be made: {last_lines(log)}\nthe whole log: {log}")


def start_missing(home: Home) -> list[str]:
    """Starts those of the four that do not run; returns their names."""
    (home.folder / "pids").mkdir(exist_ok=True)
    missing = [name for name in SERVICES if running(home, name) is None]
    for name in missing:
        with _log(home, name).open("w", encoding="utf-8") as log:
            started = subprocess.Popen(
                [sys.executable, "-m", "airflow", name, *SERVICES[name]],
                env=environment(home) | {SERVICE: name},
                cwd=home.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        _STARTED.append(started)
        _pid_file(home, name).write_text(f"{started.pid}\n", encoding="utf-8")
    return missing


def running(home: Home, name: str) -> psutil.Process | None:
    """The process of a service: the one its file tells, where that number is still one of ours."""
    try:
        process = psutil.Process(int(_pid_file(home, name).read_text(encoding="utf-8")))
    except (FileNotFoundError, ValueError, psutil.NoSuchProcess):
        return _unrecorded(home, name)
    return process if _is_ours(process, home) else _unrecorded(home, name)


class PortTaken(ServiceError):
    """Another program was quicker to take the port that was free a moment ago."""


def check_alive(home: Home) -> None:
    """Raises a ServiceError with the last lines of its log where one of the four has ended."""
    for name in SERVICES:
        if running(home, name) is None:
            log = _log(home, name)
            said = last_lines(log)
            kind = PortTaken if "address already in use" in said else ServiceError
            raise kind(f"airflow {name} has ended: {said}\nthe whole log: {log}")


def listens(home: Home) -> bool:
    """Whether it is this Airflow that is reached at its address, and not another one."""
    for process in members(home):
        try:
            found = process.net_connections(kind="tcp")
        except psutil.Error:
            continue
        if any(each.status == psutil.CONN_LISTEN and each.laddr.port == home.port for each in found):
            return True
    return False


def stop_all(home: Home, term_seconds: float = TERM_SECONDS) -> int:
    """Ends every process that carries this Airflow's mark, tasks under way included; returns how many there were.

    A stage that is ended goes on where it was when its task is tried again.

    Args:
        home: whose processes.
        term_seconds: what each has to end by itself before it is killed.

    Raises:
        ServiceError: one cannot be ended.
    """
    ended: set[int] = set()
    for _ in range(KILL_ROUNDS):
        left = members(home)
        if not left:
            break
        ended.update(process.pid for process in left)
        for process in left:
            _signal(process, kill=False)
        _, stubborn = psutil.wait_procs(left, timeout=term_seconds)
        for process in stubborn:
            _signal(process, kill=True)
        psutil.wait_procs(stubborn, timeout=TERM_SECONDS)
    left = members(home)
    if left:
        numbers = ", ".join(str(process.pid) for process in left)
        raise ServiceError(f"the processes {numbers} do not end; look at them with: ps -fp {numbers}")
    for name in SERVICES:
        _pid_file(home, name).unlink(missing_ok=True)
    for started in _STARTED:
        started.poll()
    return len(ended)


def members(home: Home) -> list[psutil.Process]:
    """Every live process that this Airflow started, directly or through others."""
    ourselves = {os.getpid(), os.getppid()}
    return [process for process in psutil.process_iter() if process.pid not in ourselves and _is_ours(process, home)]


def last_lines(log: Path) -> str:
    """The end of a log, for a message."""
    lines = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return "\n  " + "\n  ".join(lines[-LOG_LINES:]) if lines else "it gave no message"


def _unrecorded(home: Home, name: str) -> psutil.Process | None:
    """One whose launcher was killed before it could write the number down: leader of a session, with its name."""
    for process in members(home):
        try:
            is_leader = os.getsid(process.pid) == process.pid
            if is_leader and process.environ().get(SERVICE) == name and "airflow" in " ".join(process.cmdline()[:3]):
                return process
        except (psutil.Error, OSError):
            continue
    return None


def _is_ours(process: psutil.Process, home: Home) -> bool:
    try:
        return process.environ().get(MARK) == home.identity and process.status() != psutil.STATUS_ZOMBIE
    except (psutil.Error, OSError):
        return False


def _signal(process: psutil.Process, *, kill: bool) -> None:
    try:
        if kill:
            process.kill()
        else:
            process.terminate()
    except psutil.NoSuchProcess:
        return


def _pid_file(home: Home, name: str) -> Path:
    return home.folder / "pids" / name


def _log(home: Home, name: str) -> Path:
    return home.folder / f"{name}.log"
