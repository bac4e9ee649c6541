"""One publisher a project: a lock in Redis with an expiry that is renewed, and a file lock that outs a dead holder.

Redis keeps publishers of all machines apart. A publisher that is killed leaves its lock behind for EXPIRY_SECONDS; but
the kernel has let go of its file lock, so that the next one of the same work folder knows it for dead and takes over at
once. A publisher that loses its lock (a machine asleep for longer than the expiry) cannot activate: the switch compares
the lock's value in the same step.
"""

import fcntl
import json
import os
import secrets
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from pipeline.errors import BusyError

if TYPE_CHECKING:
    from redis import Redis as Client

EXPIRY_SECONDS = 30.0
RENEWAL_SECONDS = 8.0
LOCK_FILE = ".publisher.lock"
_RENEW = "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('PEXPIRE', KEYS[1], ARGV[2]) end return 0"
_RELEASE = "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end return 0"


@dataclass(frozen=True, kw_only=True)
class PublisherLock:
    """The lock while it is ours; `value` is what Redis holds as long as that is so."""

    key: str
    value: str


@contextmanager
def sole_publisher(client: "Client", project: str, home: Path) -> Iterator[PublisherLock]:
    """Holds the project against other publishers.

    Args:
        client: of the Redis server that is published to.
        project: whose generations are written.
        home: WORK/feast.

    Raises:
        BusyError: another publisher is at work.
    """
    with _held_file(home) as file:
        lock = PublisherLock(key=f"msd:{{{project}}}:publisher", value=_value())
        _take(client, lock, file)
        renewed = threading.Event()
        renewing = threading.Thread(target=_renew, args=(client, lock, renewed), daemon=True)
        renewing.start()
        try:
            yield lock
        finally:
            renewed.set()
            renewing.join()
            client.eval(_RELEASE, 1, lock.key, lock.value)


@contextmanager
def _held_file(home: Path) -> Iterator[TextIO]:
    home.mkdir(parents=True, exist_ok=True)
    with (home / LOCK_FILE).open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise _busy(_said(file)) from error
        yield file


def _take(client: "Client", lock: PublisherLock, file: TextIO) -> None:
    file.seek(0)
    left_by_the_dead = file.read()
    # The file says who we are before Redis does: were we killed in between, our value would be known for dead.
    file.seek(0)
    file.truncate()
    file.write(lock.value)
    file.flush()
    if left_by_the_dead:
        client.eval(_RELEASE, 1, lock.key, left_by_the_dead)
    if not client.set(lock.key, lock.value, nx=True, px=int(EXPIRY_SECONDS * 1000)):
        held = client.get(lock.key)
        raise _busy(held.decode() if isinstance(held, bytes) else "")


def _renew(client: "Client", lock: PublisherLock, stopped: threading.Event) -> None:
    from redis.exceptions import RedisError

    while not stopped.wait(RENEWAL_SECONDS):
        try:
            client.eval(_RENEW, 1, lock.key, lock.value, str(int(EXPIRY_SECONDS * 1000)))
        except RedisError:
            # The server may be busy for a moment; should it stay away, the lock expires, and the switch says so.
            continue


def _value() -> str:
    since = datetime.now(UTC).isoformat(timespec="seconds")
    return json.dumps({"token": secrets.token_hex(8), "host": socket.gethostname(), "pid": os.getpid(), "since": since})


def _said(file: TextIO) -> str:
    file.seek(0)
    return file.read()


def _busy(value: str) -> BusyError:
    who = ""
    if value:
        held = json.loads(value)
        who = f" (process {held['pid']} on {held['host']}, since {held['since']})"
    return BusyError(
        f"another publisher of this project is at work{who}; wait for it to end and run the same command again"
    )
