"""A link neither waits forever nor loses count, however replies are cut, whatever is refused, whenever it dies."""

import contextlib
import os
import signal
import socket
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from feature_repo.redis_address import Redis, RedisKind, connect
from feature_repo.redis_link import RedisLink, link
from feature_repo.redis_server import running_redis
from feature_repo.resp import Refusal, command, end_of, parse, reply_ends
from pipeline.errors import ServiceError

pytestmark = pytest.mark.redis
NOWHERE = Redis(kind=RedisKind.URL, host="127.0.0.1", port=1, password="hunter2")
BULK = st.one_of(st.none(), st.binary(max_size=40), st.integers(-(2**63), 2**63 - 1))
REPLY = st.recursive(BULK, lambda inner: st.lists(inner, max_size=4), max_leaves=12)


def laid_out(reply: object) -> bytes:
    if reply is None:
        return b"$-1\r\n"
    if isinstance(reply, bytes):
        return b"$%d\r\n%b\r\n" % (len(reply), reply)
    if isinstance(reply, int):
        return b":%d\r\n" % reply
    assert isinstance(reply, list)
    return b"*%d\r\n" % len(reply) + b"".join(laid_out(part) for part in reply)


def write_all(opened: RedisLink, commands: Iterable[bytes]) -> None:
    for each in commands:
        opened.write(each, 1)
    opened.finish()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Redis]:
    with running_redis(tmp_path) as redis:
        yield redis


@pytest.fixture
def pair() -> Iterator[tuple[RedisLink, socket.socket]]:
    """A link whose server is the test."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield RedisLink(ours, NOWHERE), theirs


@given(st.lists(REPLY, min_size=1, max_size=6))
def test_replies_are_known_by_their_ends(replies: list[object]):
    received = bytearray(b"".join(laid_out(reply) for reply in replies))
    ends = reply_ends(received)
    assert [parse(received, start)[0] for start in [0, *ends[:-1]]] == replies
    assert all(end_of(received[:cut]) is None for cut in range(ends[0]))
    assert end_of(received) == ends[0]


def test_a_refusal_is_no_value():
    assert parse(bytearray(b"*2\r\n-ERR no\r\n+OK\r\n"))[0] == [Refusal(b"ERR no"), b"OK"]


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(0, 12), min_size=1, max_size=50), st.data())
def test_answers_are_counted_however_they_are_cut(answers: list[int], data: st.DataObject):
    ours, theirs = socket.socketpair()
    with ours, theirs:
        opened = RedisLink(ours, NOWHERE)
        stream = b"".join(b":%d\r\n" % answer for answer in answers)
        opened.write(b"x", len(answers))
        while stream:
            size = data.draw(st.integers(1, len(stream)))
            theirs.sendall(stream[:size])
            stream = stream[size:]
            opened.write(b"", 0)
        assert opened.finish() == sum(answers)
        assert opened.finish() == 0


def test_neither_side_waits_with_both_buffers_full(server: Redis):
    """Answers far larger than any buffer, to requests that are as well: who sends first and reads later hangs here."""
    with link(server) as opened:
        opened.ask("SET", "large", os.urandom(50_000))
        request = command("GET", "large") * 3000 + command("ECHO", b"x" * 20_000_000)
        received = opened.fetch(request)
        assert len(received) > 3000 * 50_000 + 20_000_000
        opened.write(command("APPEND", "grown", b"y" * 1_000_000) * 30, 30)
        assert opened.finish() == sum(range(1_000_000, 31_000_000, 1_000_000))


def test_a_refused_command_ends_the_writing_in_the_servers_words(server: Redis):
    with link(server) as opened:
        opened.ask("SET", "text", "value")
        with pytest.raises(ServiceError, match="WRONGTYPE"):
            write_all(opened, [command("HSET", "text", "field", "value")] * 3)
    with link(server) as opened, pytest.raises(ServiceError, match="WRONGTYPE"):
        opened.ask_all([command("GET", "text"), command("HGET", "text", "field")])


def test_a_server_out_of_memory_says_so(server: Redis):
    with connect(server) as client, link(server) as opened:
        client.config_set("maxmemory", 1_000_000)
        with pytest.raises(ServiceError, match="memory_mib"):
            write_all(opened, [command("HSET", f"key{number}", "field", b"x" * 10_000) for number in range(1000)])
        client.config_set("maxmemory", 0)


def test_a_server_killed_meanwhile_is_one_sentence(server: Redis):
    with link(server) as opened, connect(server) as client:
        process = client.info("server")["process_id"]
        killer = threading.Timer(0.2, os.kill, (process, signal.SIGKILL))
        killer.start()
        with pytest.raises(ServiceError, match=r"closed the connection|refuses"):
            write_all(opened, (command("HSET", f"key{n}", "field", b"x" * 10_000) for n in range(100_000)))
        killer.join()


def test_the_password_is_masked_in_what_a_server_says(pair: tuple[RedisLink, socket.socket]):
    opened, theirs = pair
    theirs.sendall(b"-ERR AUTH hunter2 called\r\n")
    with pytest.raises(ServiceError, match=r"\*\*\*") as raised:
        opened.ask("AUTH", "hunter2")
    assert "hunter2" not in str(raised.value)
    assert "hunter2" not in repr(NOWHERE)


def test_a_refusal_before_hanging_up_is_told(pair: tuple[RedisLink, socket.socket]):
    opened, theirs = pair
    theirs.sendall(b"-DENIED Redis is running in protected mode\r\n")
    theirs.shutdown(socket.SHUT_RDWR)
    with pytest.raises(ServiceError, match="protected mode"):
        opened.ask("PING")


def test_a_request_cut_short_ends_the_link():
    """Its answers, which come later, are never taken for those of the next request."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        opened = RedisLink(ours, NOWHERE, timeout_seconds=0.05)
        with pytest.raises(ServiceError, match="has not answered"):
            opened.fetch(command("GET", "key"))
        theirs.sendall(b"$5\r\nstale\r\n" + theirs.recv(1000)[-18:])
        for use in (lambda: opened.fetch(command("GET", "other")), lambda: opened.ask("PING"), opened.finish):
            with pytest.raises(ServiceError, match="open a new one"):
                use()


def test_a_server_that_is_loading_is_waited_for():
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            accepted, _ = listener.accept()
            with accepted, contextlib.suppress(OSError):
                for answer in [b"-LOADING Redis is loading the dataset in memory\r\n"] * 3 + [b"+PONG\r\n"]:
                    accepted.recv(1000)
                    accepted.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        loading = Redis(kind=RedisKind.URL, host="127.0.0.1", port=listener.getsockname()[1])
        with link(loading):
            thread.join()
        thread = threading.Thread(target=serve)
        thread.start()
        with pytest.raises(ServiceError, match="LOADING"), link(loading, timeout_seconds=0.01):
            pass
        thread.join()


def test_links_of_two_threads_do_not_meet(server: Redis):
    faults: list[object] = []

    def work(name: str) -> None:
        with link(server) as opened:
            for number in range(300):
                opened.write(command("SADD", name, number) * 5, 5)
                if opened.finish() != 1 or opened.ask("SCARD", name) != number + 1:
                    faults.append((name, number))

    threads = [threading.Thread(target=work, args=(f"set{number}",)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not faults
