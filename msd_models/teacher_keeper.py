"""A small process that keeps a teacher server, in a session of its own: starts it, writes where it is, ends it idle.

The server dies with its keeper, and what the server started dies with the server: an engine left behind by a killed
server would hold a GPU for nobody. Nobody's requests for `idle_seconds` end it too, since a scheduler that is killed
never comes to stop it.

Run as a module with its orders as one JSON line on stdin. The first process returns at once; its child stays.
"""

import contextlib
import ctypes
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

POLL_SECONDS = 0.5
LOOK_SECONDS = 15.0
"""Between two looks at what the server has done, or a quarter of the time it may be idle."""
STOP_SECONDS = 20.0
WORK = ("vllm:prompt_tokens_total", "vllm:generation_tokens_total", "vllm:num_requests_running")
_PR_SET_PDEATHSIG = 1


class Stopped(Exception):
    """Somebody asked for the end."""


def main() -> None:
    """Keeps the server until it ends, is idle, or somebody asks for its end; then ends every process of the session."""
    orders = json.loads(sys.stdin.readline())
    if os.fork():
        return
    os.setsid()
    signal.signal(signal.SIGTERM, _stop)
    state_file = Path(orders["state_file"])
    try:
        server = _start(orders)
        _write(state_file, orders["state"] | {"pid": os.getpid(), "server_pid": server.pid})
        _watch(server, orders)
    except Stopped:
        server.terminate()
        try:
            server.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            sys.stderr.write("the server did not end by itself and is killed\n")
        # Only an end that was meant takes the state away: without it nobody could tell a crash from a stop.
        if _says(state_file, orders["state"]["id"]):
            state_file.unlink(missing_ok=True)
    finally:
        os.killpg(0, signal.SIGKILL)


def _start(orders: Mapping[str, Any]) -> "subprocess.Popen[bytes]":
    libc = ctypes.CDLL(None)

    def die_with_keeper() -> None:
        if sys.platform == "linux":
            libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)

    # preexec_fn is safe here: this process has one thread.
    return subprocess.Popen(orders["command"], stdin=subprocess.DEVNULL, preexec_fn=die_with_keeper)


def _watch(server: "subprocess.Popen[bytes]", orders: Mapping[str, Any]) -> None:
    """Returns when the server has ended.

    Raises:
        Stopped: it was idle for too long, or its state was taken away, which is how another machine asks for the end.
    """
    state_file = Path(orders["state_file"])
    busy_at = looked_at = time.monotonic()
    done = ""
    while server.poll() is None:
        time.sleep(POLL_SECONDS)
        if not _says(state_file, orders["state"]["id"]):
            raise Stopped
        # Other machines see by its age that the server is there.
        with contextlib.suppress(FileNotFoundError):
            os.utime(state_file)
        now = time.monotonic()
        if now - looked_at < min(LOOK_SECONDS, orders["idle_seconds"] / 4):
            continue
        looked_at, before, done = now, done, _work_done(orders["state"]["address"])
        if done != before or not done:
            busy_at = now
        if now - busy_at > orders["idle_seconds"]:
            sys.stderr.write(f"nobody asked anything for {orders['idle_seconds']:.0f} s: the server ends\n")
            raise Stopped
    sys.stderr.write(f"the server ended with code {server.returncode}\n")


def _work_done(address: str) -> str:
    """The lines of the server's metrics that change with every request; empty where it does not answer (yet)."""
    try:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(f"{address}/metrics", timeout=5.0) as answer:
            lines = answer.read().decode(errors="replace").splitlines()
    except OSError:
        return ""
    return "\n".join(line for line in lines if line.startswith(WORK))


def _says(state_file: Path, server_id: str) -> bool:
    try:
        return bool(json.loads(state_file.read_text(encoding="utf-8"))["id"] == server_id)
    except FileNotFoundError:
        return False


def _write(path: Path, state: Mapping[str, Any]) -> None:
    aside = path.with_name(f".{path.name}.{os.getpid()}.writing")
    aside.write_text(json.dumps(state, indent=1), encoding="utf-8")
    aside.replace(path)


def _stop(*_: object) -> None:
    raise Stopped


if __name__ == "__main__":
    main()
