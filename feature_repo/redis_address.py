"""The address of a Redis server: read from REDIS_URL, written as Feast wants it, the password kept out of any text."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from pipeline.errors import ServiceError, UsageError

if TYPE_CHECKING:
    from redis import Redis as Client

CONNECT_SECONDS = 5.0
PASSWORD_VARIABLE = "MSD_REDIS_PASSWORD"


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


def reached(redis: Redis) -> Redis:
    """The same server, once it has answered; its password goes into the environment, where Feast looks for it.

    Raises:
        ServiceError: it does not answer, or refuses the password.
    """
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
