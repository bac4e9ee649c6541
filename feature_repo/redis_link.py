"""One socket to a Redis server: commands pipelined from bytes, replies drained meanwhile and checked.

redis-py packs and parses command by command, which is what a publication and a lookup spend most of their time on; here
whole buffers go out and come in. Sending and receiving alternate by readiness, so that neither side ever waits for the
other with both buffers full, and what is in flight stays bounded by the kernel's buffers.

A link belongs to one thread. A request that is cut short, by a time limit or an exception, leaves answers under way
that belong to nobody: the link then refuses further use.
"""

import os
import select
import socket
import ssl
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeAlias

from feature_repo.redis_address import CONNECT_SECONDS, PASSWORD_VARIABLE, Redis
from feature_repo.resp import LINE, Refusal, Reply, command, end_of, parse
from pipeline.errors import ServiceError

TIMEOUT_SECONDS = 60.0
_RECEIVE_BYTES = 1 << 18
_SEND_BYTES = 1 << 20
_MARK_BYTES = 16
_LOADING_SECONDS = 0.05

Buffer: TypeAlias = "bytes | bytearray | memoryview"


@contextmanager
def link(redis: Redis, timeout_seconds: float = TIMEOUT_SECONDS) -> "Iterator[RedisLink]":
    """An authenticated connection to the server's database, closed afterwards; waits while the server loads its data.

    Args:
        redis: the server.
        timeout_seconds: how long it may be silent when something is expected of it.

    Raises:
        ServiceError: the server does not answer, is not who its certificate should say, or refuses the password.
    """
    try:
        connection = _connected(redis)
    except OSError as error:
        raise ServiceError(_unreached(redis, error)) from None
    try:
        made = RedisLink(connection, redis, timeout_seconds)
        if redis.password or redis.username:
            made.ask("AUTH", *([redis.username] if redis.username else []), redis.password)
        if redis.database:
            made.ask("SELECT", redis.database)
        made.greet()
        yield made
    finally:
        connection.close()


def reached(redis: Redis) -> Redis:
    """The same server, once it has answered; its password goes into the environment, where Feast looks for it.

    Raises:
        ServiceError: it does not answer, or refuses the password.
    """
    with link(redis):
        os.environ[PASSWORD_VARIABLE] = redis.password
    return redis


class RedisLink:
    """A connected socket; see `link`."""

    def __init__(self, connection: socket.socket, redis: Redis, timeout_seconds: float = TIMEOUT_SECONDS) -> None:
        """Takes over a connected socket."""
        connection.setblocking(False)
        self.redis = redis
        self.bytes_sent = 0
        self._socket, self._timeout_seconds = connection, timeout_seconds
        self._reading, self._both = select.poll(), select.poll()
        self._reading.register(connection, select.POLLIN)
        self._both.register(connection, select.POLLIN | select.POLLOUT)
        self._landing = memoryview(bytearray(_RECEIVE_BYTES))
        mark = os.urandom(_MARK_BYTES)
        self._ping, self._pong = command(b"PING", mark), b"$%d\r\n%b\r\n" % (_MARK_BYTES, mark)
        self._replies = bytearray()
        self._outstanding = 0
        self._total = 0
        self._is_torn = False

    def greet(self) -> None:
        """Waits until the server has loaded its data.

        Raises:
            ServiceError: it wants a password, or this user may not even PING, which every fetch does.
        """
        deadline = time.monotonic() + self._timeout_seconds
        reply = self._answer(command("PING"))
        while isinstance(reply, Refusal) and reply.text.startswith(b"LOADING") and time.monotonic() < deadline:
            time.sleep(_LOADING_SECONDS)
            reply = self._answer(command("PING"))
        self._accepted(reply)

    def ask(self, *words: bytes | str | int) -> Reply:
        """One command and its reply.

        Raises:
            ServiceError: the server refuses it, or is gone.
        """
        self.finish()
        return self._accepted(self._answer(command(*words)))

    def ask_all(self, commands: Sequence[bytes]) -> list[Reply]:
        """Some commands in one round trip; the reply of each.

        Raises:
            ServiceError: the server refuses one of them, or is gone.
        """
        received = self.fetch(b"".join(commands))
        replies: list[Reply] = []
        start = 0
        for _ in commands:
            reply, start = parse(received, start)
            replies.append(self._accepted(reply))
        return replies

    def write(self, commands: Buffer, count: int) -> None:
        """Sends commands that answer with a number each, without waiting for the answers.

        Args:
            commands: any contiguous buffer; it may be used again when the call returns.
            count: of the commands in it.

        Raises:
            ServiceError: the server has refused one of the commands so far, or is gone.
        """
        with self._undivided():
            self._outstanding += count
            self._send(commands, self._replies)
            self._receive_now(self._replies)
            self._count_replies()

    def finish(self) -> int:
        """Waits for the outstanding answers; returns the sum of all numbers answered since the last time."""
        with self._undivided():
            while self._outstanding:
                self._receive(self._replies)
                self._count_replies()
        total, self._total = self._total, 0
        return total

    def fetch(self, request: Buffer) -> bytearray:
        """Sends any number of commands and returns the raw answers.

        A PING goes behind them: where its answer stands, all others have come, and none had to be parsed to know it.
        """
        self.finish()
        received = self._exchange(b"".join((request, self._ping)), lambda received: received.endswith(self._pong))
        del received[-len(self._pong) :]
        return received

    def refusal(self, text: bytes | bytearray) -> ServiceError:
        """What to raise for an error the server sent: its words without the password."""
        shown = self.redis.masked(bytes(text).decode(errors="replace"))
        hint = ""
        if shown.startswith(("NOAUTH", "WRONGPASS", "NOPERM", "ERR invalid password")):
            hint = "; correct the user and password in REDIS_URL, or what the server allows them"
        elif shown.startswith("OOM"):
            hint = "; give the server more memory, or publish less: --set publication.memory_mib=…"
        return ServiceError(f"Redis at {self.redis.shown} refuses a command: {shown}{hint}")

    def _exchange(self, request: Buffer, is_whole: Callable[[bytearray], bool]) -> bytearray:
        received = bytearray()
        with self._undivided():
            self._send(request, received)
            while not is_whole(received):
                self._receive(received)
        return received

    def _answer(self, request: bytes) -> Reply:
        return parse(self._exchange(request, lambda received: end_of(received) is not None))[0]

    @contextmanager
    def _undivided(self) -> Iterator[None]:
        """What fails in the block leaves the link torn."""
        if self._is_torn:
            raise ServiceError(
                f"an earlier request to Redis at {self.redis.shown} was cut short on this connection; open a new one"
            )
        self._is_torn = True
        yield
        self._is_torn = False

    def _send(self, payload: Buffer, received: bytearray) -> None:
        left = memoryview(payload).cast("B")
        self.bytes_sent += len(left)
        while left:
            try:
                left = left[self._socket.send(left[:_SEND_BYTES]) :]
            except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
                if self._wait(self._both) & select.POLLIN:
                    self._receive_now(received)
            except OSError as error:
                # What the server said before it hung up explains more than the broken pipe does.
                while self._receive_now(received):
                    pass
                raise self._gone(error) from error

    def _receive(self, received: bytearray) -> None:
        if not self._receive_now(received):
            self._wait(self._reading)
            self._receive_now(received)

    def _receive_now(self, received: bytearray) -> bool:
        """Takes what is there, if anything."""
        try:
            size = self._socket.recv_into(self._landing)
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return False
        except OSError as error:
            raise self._gone(error) from error
        if not size:
            if received.startswith(b"-"):
                raise self.refusal(received[1:].split(LINE)[0])
            raise self._gone(None)
        received += self._landing[:size]
        return True

    def _wait(self, poll: "select.poll") -> int:
        ready = poll.poll(self._timeout_seconds * 1000)
        if not ready:
            raise ServiceError(
                f"Redis at {self.redis.shown} has not answered for {self._timeout_seconds:g} s; see that it is not"
                " overloaded: redis-cli --latency"
            )
        return ready[0][1]

    def _count_replies(self) -> None:
        """Adds up the whole answers received so far and keeps the rest."""
        end = self._replies.rfind(LINE)
        if end < 0:
            return
        lines = Counter(bytes(self._replies[:end]).split(LINE))
        del self._replies[: end + len(LINE)]
        for line, times in lines.items():
            if line.startswith(b"-"):
                raise self.refusal(line[1:])
            self._total += int(line[1:]) * times
            self._outstanding -= times

    def _accepted(self, reply: Reply) -> Reply:
        if isinstance(reply, Refusal):
            raise self.refusal(reply.text)
        return reply

    def _gone(self, error: OSError | None) -> ServiceError:
        reason = f": {error}" if error else ""
        return ServiceError(
            f"Redis at {self.redis.shown} closed the connection{reason}; see that it runs, and that REDIS_URL says"
            " rediss:// exactly where it wants TLS"
        )


def _connected(redis: Redis) -> socket.socket:
    plain = socket.create_connection((redis.host, redis.port), timeout=CONNECT_SECONDS)
    plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if not redis.is_tls:
        return plain
    try:
        context = ssl.create_default_context(cafile=redis.ca_file or None)
        if redis.cert_file:
            context.load_cert_chain(redis.cert_file, redis.key_file or None)
        return context.wrap_socket(plain, server_hostname=redis.host)
    except TimeoutError as error:
        plain.close()
        raise ssl.SSLError(f"no answer to it within {CONNECT_SECONDS:.0f} s") from error
    except BaseException:
        plain.close()
        raise


def _unreached(redis: Redis, error: OSError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return (
            f"the certificate of Redis at {redis.shown} is not to be trusted: {error.verify_message}; set REDIS_CA_FILE"
            " to the PEM file of the authority that signed it"
        )
    if isinstance(error, ssl.SSLError):
        return (
            f"Redis at {redis.shown} does not complete a TLS handshake: {error}; where it speaks no TLS"
            " use redis://, where it wants a client's certificate set REDIS_CERT_FILE and REDIS_KEY_FILE"
        )
    return (
        f"Redis at {redis.shown} cannot be reached: {error}; start it, correct REDIS_URL, or unset it to use the work"
        " directory's own"
    )
