"""The address of a Redis server: read from REDIS_URL, written as Feast wants it, the password kept out of any text."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from pipeline.errors import UsageError

if TYPE_CHECKING:
    from redis import Redis as Client

CONNECT_SECONDS = 5.0
PASSWORD_VARIABLE = "MSD_REDIS_PASSWORD"
CA_VARIABLE = "REDIS_CA_FILE"
CERT_VARIABLE = "REDIS_CERT_FILE"
KEY_VARIABLE = "REDIS_KEY_FILE"


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
    password: str = field(default="", repr=False)
    is_tls: bool = False
    ca_file: str = ""
    """PEM file of the authority that signed the server's certificate; empty: those the system trusts."""
    cert_file: str = ""
    """Our own certificate, for a server that asks for one."""
    key_file: str = ""

    @property
    def shown(self) -> str:
        """The address without user and password."""
        return f"{'rediss' if self.is_tls else 'redis'}://{self.host}:{self.port}/{self.database}"

    @property
    def connection_string(self) -> str:
        """Feast's form of the address; password and certificates are named in the environment, not in any file."""
        parts = [f"{self.host}:{self.port}", f"db={self.database}"]
        parts += ["ssl=true"] if self.is_tls else []
        parts += [f"ssl_ca_certs=${{{CA_VARIABLE}}}"] if self.ca_file else []
        parts += [f"ssl_certfile=${{{CERT_VARIABLE}}}"] if self.cert_file else []
        parts += [f"ssl_keyfile=${{{KEY_VARIABLE}}}"] if self.key_file else []
        parts += [f"username={self.username}"] if self.username else []
        parts += [f"password=${{{PASSWORD_VARIABLE}}}"] if self.password else []
        return ",".join(parts)

    def masked(self, text: str) -> str:
        """The text without the password."""
        return text.replace(self.password, "***") if self.password else text


def parse_url(url: str) -> Redis:
    """The parts of `redis://[user[:password]@]host[:port][/database]`, or `rediss://` for TLS.

    The certificates of TLS come from the environment: $REDIS_CA_FILE, $REDIS_CERT_FILE and $REDIS_KEY_FILE.

    Raises:
        UsageError: something else, a password that Feast's connection string cannot carry, or a certificate that is
            not there.
    """
    wanted = "wanted redis://[user:password@]host:port/database, or rediss:// for TLS"
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise UsageError(
            f"REDIS_URL cannot be taken apart; {wanted}; write [ ] / @ : in a password as %5B %5D %2F %40 %3A"
        ) from error
    try:
        port, database = parts.port or 6379, int(parts.path.strip("/") or 0)
    except ValueError as error:
        raise UsageError(f"REDIS_URL has a port or database that is no number; {wanted}") from error
    if parts.scheme not in ("redis", "rediss") or not parts.hostname:
        raise UsageError(f"REDIS_URL is not the address of a Redis server; {wanted}")
    username, password = unquote(parts.username or ""), unquote(parts.password or "")
    _refuse_uncarried(username, password)
    is_tls = parts.scheme == "rediss"
    return Redis(
        kind=RedisKind.URL,
        host=parts.hostname,
        port=port,
        database=database,
        username=username,
        password=password,
        is_tls=is_tls,
        ca_file=_certificate(CA_VARIABLE) if is_tls else "",
        cert_file=_certificate(CERT_VARIABLE) if is_tls else "",
        key_file=_certificate(KEY_VARIABLE) if is_tls else "",
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
        ssl_ca_certs=redis.ca_file or None,
        ssl_certfile=redis.cert_file or None,
        ssl_keyfile=redis.key_file or None,
        socket_connect_timeout=CONNECT_SECONDS,
        retry=Retry(NoBackoff(), 1),
    )
    try:
        yield client
    finally:
        client.close()


def _refuse_uncarried(*secrets: str) -> None:
    """Feast cuts its connection string at commas and reads values as JSON where it can."""
    for secret in secrets:
        if any(character in ",'\"\\$" or character.isspace() for character in secret):
            raise UsageError(
                "the user or password in REDIS_URL holds a comma, quote, backslash, dollar sign or white space, which"
                " Feast cannot carry; set another one"
            )
        try:
            read = json.loads(secret)
        except ValueError:
            continue
        if type(read) is not int or str(read) != secret:
            raise UsageError(
                "the user or password in REDIS_URL reads as a JSON value (such as 1e5, true or []), which Feast takes"
                " for something else; set another one"
            )


def _certificate(variable: str) -> str:
    path = os.environ.get(variable, "")
    if path and not Path(path).is_file():
        raise UsageError(f"{variable} names no file: {path}; wanted a PEM file")
    if any(character in path for character in ",'\"\\$"):
        raise UsageError(f"{variable} holds a comma, quote, backslash or dollar sign, which Feast cannot carry: {path}")
    return path
