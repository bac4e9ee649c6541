"""A vLLM server for a work folder's teacher: a process of its own on the loopback, started, found, shown and stopped.

Several tasks ask one model side by side, and the minute it takes to load is spent once. Whoever starts the server for a
day says so, and the last of them to stop it ends it: two days of a backfill do not end each other's teacher. A process
is known by an id in its environment, which everything it starts inherits, so that a number given to another process
since is never killed, and nothing of the server's is left behind.
"""

import fcntl
import importlib.util
import json
import os
import platform
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.error import HTTPError

from pipeline.config import TeacherOutputs
from pipeline.errors import ServiceError
from pipeline.progress import note
from pipeline.teacher_address import KEY_FILE, STATE_FILE, environment_key, read_key, read_state, runs_elsewhere

if TYPE_CHECKING:
    from msd_models.teacher_command import Served

ID_VARIABLE = "MSD_TEACHER_SERVER"
LOG_FILE, LOCK_FILE, USERS = "server.log", "start.lock", "users"
KEEPER = ("-m", "msd_models.teacher_keeper")
LOOPBACK = "127.0.0.1"
POLL_SECONDS = 0.5
TOLD_SECONDS = 15.0
KEEPER_SECONDS = 20.0
STOP_SECONDS = 40.0
REVIVE_SECONDS = 900.0
NOBODY = "by-hand"
"""Who starts it without naming a day."""


def start(config: TeacherOutputs, folder: Path, user: str | None, *, idle_seconds: float, wait_seconds: float) -> str:
    """Brings the server up, or finds it up; returns its address when it answers.

    Args:
        config: of teacher_outputs: the model and how it is run.
        folder: WORK/teacher_server.
        user: who needs it: a day, or empty; None where nobody new does.
        idle_seconds: without a request until it ends by itself.
        wait_seconds: until it must answer.

    Raises:
        ConfigError: the settings name no served teacher, or a model that cannot be served.
        ServiceError: another model is served here, or the server does not come up; its last lines are told.
    """
    from msd_models.teacher_command import served_by

    return bring_up(served_by(config), folder, user, idle_seconds=idle_seconds, wait_seconds=wait_seconds)


def revive(config: TeacherOutputs, folder: Path) -> None:
    """Starts the folder's server anew where it died; whoever needed it still does.

    A slice that is tried again thus waits for no person. Does nothing where no server was started or it was stopped, on
    another machine than the one it ran on, and without vllm.

    Raises:
        ServiceError: it does not come up.
    """
    state = read_state(folder)
    if state is not None and has_died(state) and importlib.util.find_spec("vllm") is not None:
        start(config, folder, None, idle_seconds=state["idle_seconds"], wait_seconds=REVIVE_SECONDS)


def has_died(state: Mapping[str, Any]) -> bool:
    """Whether a server of this machine has ended without being stopped, which would have taken its state away."""
    return bool(state["host"] == platform.node() and not _is_alive(state))


def bring_up(served: "Served", folder: Path, user: str | None, *, idle_seconds: float, wait_seconds: float) -> str:
    """The same for a server that is called as said."""
    if not Path("/proc/self/environ").is_file():
        raise ServiceError("msd teacher knows its processes by /proc, which this system lacks; run it on Linux")
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with _alone(folder):
        state = read_state(folder)
        if state is not None and runs_elsewhere(folder, state):
            raise ServiceError(
                f"the teacher server of {folder.parent} runs on {state['host']} and answers there alone; when nobody"
                " needs it any more: msd teacher stop"
            )
        if state is not None and not _is_alive(state):
            note("the teacher server that was started here has ended; it is started anew", "warning")
            _end(folder, state)
            state = None
        if state is None:
            state = _launch(served, folder, idle_seconds)
        elif state["serves"] != served.facts:
            raise ServiceError(
                f"the teacher server at {state['address']} serves {_told(state['serves'])}, and {_told(served.facts)}"
                " is wanted; when nobody needs it any more: msd teacher stop"
            )
        _wait_until_healthy(folder, state, wait_seconds)
        if user is not None:
            (folder / USERS).mkdir(exist_ok=True)
            (folder / USERS / (user or NOBODY)).touch()
    return str(state["address"])


def stop(folder: Path, user: str) -> str:
    """Ends the server; one that a day is named for only where no other day needs it. Says what was done.

    Args:
        folder: WORK/teacher_server.
        user: the day that needs it no more; empty ends it whoever does.
    """
    if not folder.is_dir():
        return "no teacher server runs here"
    with _alone(folder):
        if user:
            (folder / USERS / user).unlink(missing_ok=True)
            others = sorted(path.name for path in (folder / USERS).glob("*"))
            if others:
                return f"the teacher server stays up for {', '.join(others)}"
        state = read_state(folder)
        shutil.rmtree(folder / USERS, ignore_errors=True)
        if state is None:
            return "no teacher server runs here"
        _end(folder, state)
        return "the teacher server is stopped"


def status(folder: Path) -> dict[str, Any]:
    """What is known of the server: `state` is stopped, died, starting (it does not answer), running or elsewhere."""
    state = read_state(folder) if folder.is_dir() else None
    if state is None:
        return {"state": "stopped"}
    known = {name: state[name] for name in ("address", "host", "pid", "serves", "started_at")}
    known["users"] = sorted(path.name for path in (folder / USERS).glob("*"))
    if runs_elsewhere(folder, state):
        return {"state": "elsewhere", **known}
    if not _is_alive(state):
        return {"state": "died", **known, "last_lines": _last_lines(folder)}
    return {"state": "running" if _answers(folder, state) else "starting", **known}


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One start or stop at a time; the second waits, and finds what the first has made."""
    with (folder / LOCK_FILE).open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            note("another start or stop of the teacher server is under way; waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _launch(served: "Served", folder: Path, idle_seconds: float) -> dict[str, Any]:
    """Starts the keeper, which starts the server; returns what it wrote."""
    server_id, port = uuid.uuid4().hex, _free_port()
    orders = {
        "command": [*served.command, "--host", LOOPBACK, "--port", str(port)],
        "idle_seconds": idle_seconds,
        "state_file": str(folder / STATE_FILE),
        "state": {
            "id": server_id,
            "host": platform.node(),
            "address": f"http://{LOOPBACK}:{port}",
            "serves": served.facts,
            "idle_seconds": idle_seconds,
            "started_at": datetime.now(UTC).isoformat(timespec="seconds"),
        },
    }
    # The key travels in the environment: a command line can be read by everybody on the machine.
    environment = {**os.environ, **served.variables, ID_VARIABLE: server_id, "VLLM_API_KEY": _key_for(folder)}
    with (folder / LOG_FILE).open("wb") as log:
        # It returns at once: the one that stays is its child, which nobody has to wait for.
        subprocess.run(
            [sys.executable, *KEEPER],
            input=json.dumps(orders).encode() + b"\n",
            stdout=log,
            stderr=log,
            env=environment,
            check=False,
        )
    deadline = time.monotonic() + KEEPER_SECONDS
    while (state := read_state(folder)) is None or state["id"] != server_id:
        if time.monotonic() > deadline:
            raise ServiceError(f"the teacher server's keeper does not start: {_last_lines(folder)}")
        time.sleep(POLL_SECONDS / 10)
    return state


def _key_for(folder: Path) -> str:
    """The environment's key; else one of our own, in a file that its owner alone can read."""
    path = folder / KEY_FILE
    path.unlink(missing_ok=True)
    known = environment_key()
    if known:
        return known
    made = secrets.token_urlsafe(32)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii") as file:
        file.write(made)
    return made


def _wait_until_healthy(folder: Path, state: Mapping[str, Any], wait_seconds: float) -> None:
    started = told = time.monotonic()
    while not _answers(folder, state):
        now = time.monotonic()
        if not _is_alive(state):
            said = _last_lines(folder)
            _end(folder, state)
            raise ServiceError(f"the teacher server ended while it started: {said}; see {folder / LOG_FILE}")
        if now - started > wait_seconds:
            said = _last_lines(folder)
            _end(folder, state)
            raise ServiceError(
                f"the teacher server did not answer within {wait_seconds:.0f} s and was stopped: {said}; see"
                f" {folder / LOG_FILE}, or give it longer: --wait-seconds"
            )
        if now - told > TOLD_SECONDS:
            told = now
            note(f"  the teacher server loads {state['serves']['model']}: {now - started:.0f} s so far")
        time.sleep(POLL_SECONDS)


def _answers(folder: Path, state: Mapping[str, Any]) -> bool:
    """Whether the server serves its model to whoever has the key.

    Raises:
        ServiceError: it refuses the key.
    """
    request = urllib.request.Request(
        f"{state['address']}/v1/models", headers={"Authorization": f"Bearer {read_key(folder)}"}
    )
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=5.0) as answer:
            served = [model["id"] for model in json.load(answer)["data"]]
    except HTTPError as error:
        if error.code in (401, 403):
            raise ServiceError(
                f"the teacher server at {state['address']} was started with another key; set the same one, or start it"
                " anew: msd teacher stop"
            ) from error
        return False
    except (OSError, ValueError):
        return False
    return state["serves"]["model"] in served


def _end(folder: Path, state: Mapping[str, Any]) -> None:
    """Ends the keeper, the server and all they started; returns when none is left."""
    if _is_alive(state):
        with suppress(ProcessLookupError):
            os.kill(state["pid"], signal.SIGTERM)
    deadline = time.monotonic() + STOP_SECONDS
    while _is_alive(state) and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS / 5)
    while left := _processes(state):
        for pid in left:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(POLL_SECONDS / 5)
    (folder / STATE_FILE).unlink(missing_ok=True)
    (folder / KEY_FILE).unlink(missing_ok=True)


def _is_alive(state: Mapping[str, Any]) -> bool:
    """Whether keeper and server both run: one without the other is about to end."""
    left = _processes(state)
    return state["pid"] in left and state["server_pid"] in left


def _processes(state: Mapping[str, Any]) -> list[int]:
    """Processes of this server that are not dead and waited for.

    They have its id in their environment; an engine, which writes its title over its environment, stands in the
    keeper's session, whose number is nobody else's while the engine lives.
    """
    marker = f"{ID_VARIABLE}={state['id']}".encode()
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            told = (entry / "stat").read_text(errors="replace").rpartition(")")[2].split()
            is_engine = told[3] == str(state["pid"]) and b"vllm" in (entry / "cmdline").read_bytes().lower()
            is_ours = is_engine or marker in (entry / "environ").read_bytes().split(b"\0")
            if is_ours and told[0] not in ("Z", "X"):
                found.append(int(entry.name))
    return found


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])


def _last_lines(folder: Path) -> str:
    path = folder / LOG_FILE
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []
    said = [line.strip() for line in lines if line.strip()]
    named = [line for line in said if "Error" in line]
    return " | ".join([*named[-2:], *said[-2:]]) or "it wrote nothing"


def _told(facts: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in facts.items())
