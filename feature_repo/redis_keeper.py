"""A small process that keeps one Redis server alive for as long as somebody uses its folder.

Whoever uses the server holds a shared flock on `users.lock` in the folder. The kernel lets go of it however a process
ends, kill -9 included; when nobody holds it any more, the keeper gets the exclusive lock, has the server save its data
and stop, and ends. So the server outlives the command that started it exactly when another command still needs it.

Run as a script with the standard library only: `redis_keeper.py FOLDER BINARY PORT`. The first process returns at once;
its child stays.
"""

import ctypes
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

USERS_LOCK = "users.lock"
STATE_FILE = "server.json"
LOG_FILE = "redis.log"
DUMP_FILE = "dump.rdb"
POLL_SECONDS = 0.1
STOP_SECONDS = 60.0
_PR_SET_PDEATHSIG = 1


def main(folder: Path, binary: str, port: int) -> None:
    """Starts the server and waits in a child of its own session until the last user is gone."""
    if os.fork():
        return
    os.setsid()
    with (folder / LOG_FILE).open("ab") as log:
        for stream in (0, 1, 2):
            os.dup2(log.fileno(), stream)
    server = _start(folder, binary, port)
    try:
        _write_state(folder, server.pid, port)
        _wait_until_unused(folder, server)
    finally:
        (folder / STATE_FILE).unlink(missing_ok=True)


def _start(folder: Path, binary: str, port: int) -> subprocess.Popen[bytes]:
    settings = {
        "--bind": ["127.0.0.1"],
        "--port": [str(port)],
        "--protected-mode": ["yes"],
        "--dir": [str(folder)],
        "--dbfilename": [DUMP_FILE],
        "--save": ["300", "1"],
        "--appendonly": ["no"],
        "--daemonize": ["no"],
        "--maxmemory-policy": ["noeviction"],
        # A hash of few large values then is one block of memory rather than a table: a fifth smaller, written faster.
        "--hash-max-ziplist-value": ["4096"],
    }
    command = [binary, *(word for name, values in settings.items() for word in (name, *values))]
    libc = ctypes.CDLL(None)

    def die_with_keeper() -> None:
        if sys.platform == "linux":
            libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)

    # preexec_fn is safe here: this process has one thread.
    return subprocess.Popen(command, cwd=folder, preexec_fn=die_with_keeper)


def _write_state(folder: Path, pid: int, port: int) -> None:
    aside = folder / f".{STATE_FILE}.writing"
    aside.write_text(json.dumps({"pid": pid, "port": port, "keeper_pid": os.getpid()}), encoding="utf-8")
    aside.replace(folder / STATE_FILE)


def _wait_until_unused(folder: Path, server: subprocess.Popen[bytes]) -> None:
    signal.signal(signal.SIGTERM, lambda *_: server.terminate())
    with (folder / USERS_LOCK).open("a+") as users:
        while server.poll() is None:
            try:
                fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                time.sleep(POLL_SECONDS)
                continue
            # SIGTERM makes Redis save where save points are set, which they are, and stop.
            server.terminate()
            server.wait(STOP_SECONDS)
            # The state goes before the lock does: a newcomer never reads of a server that is gone.
            (folder / STATE_FILE).unlink(missing_ok=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
