"""A work directory's own Redis: one server per folder, alive while used, its data kept; REDIS_URL taken as it is."""

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path

import pytest
import redis as redis_py
from forked_children import Child, ForkedChildren
from hypothesis import given
from hypothesis import strategies as st
from store_children import hold_redis

from feature_repo.redis_address import Redis, RedisKind, connect, parse_url
from feature_repo.redis_server import find_binary, running_redis, serve_redis
from pipeline.errors import ServiceError, UsageError

pytestmark = [pytest.mark.redis, pytest.mark.xdist_group("feast children")]
Holding = Callable[[str], AbstractContextManager[Child]]


def wait_until(condition: Callable[[], bool], seconds: float = 15.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def is_listening(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_data_and_port_outlive_the_server(tmp_path: Path):
    with running_redis(tmp_path) as first, connect(first) as client:
        client.set("key", "value")
    assert not is_listening(first.port)
    with running_redis(tmp_path) as second, connect(second) as client:
        assert client.get("key") == b"value"
    assert (second.port, second.kind) == (first.port, RedisKind.OWN)


def test_only_loopback_is_listened_on(tmp_path: Path):
    with running_redis(tmp_path) as redis, connect(redis) as client:
        assert client.config_get("bind")["bind"] == "127.0.0.1"


@pytest.fixture
def holding(children: ForkedChildren, tmp_path: Path) -> Holding:
    """Starts processes that use the folder's server until they are released or killed."""
    return lambda key: children.running(hold_redis, tmp_path, key)


def test_processes_that_start_at_once_share_one_server(holding: Holding, tmp_path: Path):
    with ExitStack() as stack:
        holders = [stack.enter_context(holding(f"key{number}")) for number in range(4)]
        answers = {holder.lines(1)[0] for holder in holders}
        (tmp_path / "released").touch()
        for holder in holders:
            holder.ended(30)
    assert len(answers) == 1, "one port and one server for all"
    assert not is_listening(int(answers.pop().split()[0]))


def killed(holder: Child) -> None:
    os.kill(holder.pid, signal.SIGKILL)
    holder.ended(30)


def test_server_stays_while_another_process_uses_it(holding: Holding, tmp_path: Path):
    with holding("key") as holder:
        port = int(holder.lines(1)[0].split()[0])
        with running_redis(tmp_path) as adopted:
            assert adopted.port == port
            killed(holder)
            time.sleep(0.5)
            with connect(adopted) as client:
                assert client.get("key") == b"here"
    assert not is_listening(port)


def test_server_saves_and_stops_when_its_only_user_is_killed(holding: Holding, tmp_path: Path):
    with holding("key") as holder:
        port = int(holder.lines(1)[0].split()[0])
        killed(holder)
    wait_until(lambda: not is_listening(port))
    with running_redis(tmp_path) as redis, connect(redis) as client:
        assert client.get("key") == b"here"


def test_server_that_was_killed_is_started_again(tmp_path: Path):
    with running_redis(tmp_path) as redis:
        with connect(redis) as client:
            os.kill(client.info("server")["process_id"], signal.SIGKILL)
        wait_until(lambda: not is_listening(redis.port))
        with running_redis(tmp_path) as again, connect(again) as client:
            assert client.ping()


def test_port_held_by_another_program_is_left_to_it(tmp_path: Path):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        taken = other.getsockname()[1]
        (tmp_path / "redis").mkdir()
        (tmp_path / "redis" / "port").write_text(str(taken))
        with running_redis(tmp_path) as redis, connect(redis) as client:
            assert redis.port != taken
            assert client.ping()


def test_state_left_by_a_foreign_server_is_not_believed(tmp_path: Path):
    with running_redis(tmp_path / "one") as one:
        folder = tmp_path / "two" / "redis"
        folder.mkdir(parents=True)
        state = (tmp_path / "one" / "redis" / "server.json").read_text()
        (folder / "server.json").write_text(state)
        with running_redis(tmp_path / "two") as two:
            assert two.port != one.port


def test_unreachable_url_is_one_sentence_without_the_password(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    monkeypatch.setenv("REDIS_URL", f"redis://someone:hunter2secret@127.0.0.1:{port}/3")
    with pytest.raises(ServiceError, match="cannot be reached") as raised, running_redis(tmp_path):
        pass
    assert "hunter2secret" not in str(raised.value)
    assert f"127.0.0.1:{port}/3" in str(raised.value)
    assert raised.value.__suppress_context__, "no chain that would print the client's own error"
    assert not (tmp_path / "redis").exists()


def test_wrong_password_is_a_service_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with running_redis(tmp_path) as own, connect(own) as client:
        client.config_set("requirepass", "right")
        monkeypatch.setenv("REDIS_URL", f"redis://:wrong@127.0.0.1:{own.port}/0")
        with pytest.raises(ServiceError), running_redis(tmp_path):
            pass
        monkeypatch.setenv("REDIS_URL", f"redis://:right@127.0.0.1:{own.port}/0")
        with running_redis(tmp_path) as by_url:
            assert by_url.kind is RedisKind.URL
        client.config_set("requirepass", "")


@pytest.mark.parametrize(
    "url",
    [
        "http://host:1",
        "localhost:6379",
        "redis://",
        "redis://host:port",
        "redis://host/db",
        "unix:///tmp/redis.sock",
        "redis://:with,comma@host",
        "redis://:with%20space@host",
        "redis://:dollar$@host",
    ],
)
def test_other_addresses_are_refused_in_words(url: str):
    with pytest.raises(UsageError) as raised:
        parse_url(url)
    assert "comma@" not in str(raised.value)


# Words such as true, and numbers such as 1e5, are refused: see test_redis_security.
safe_text = st.text(st.characters(codec="ascii", categories=["L", "N"]), max_size=12).map(
    lambda text: text and f"p{text}"
)


@given(
    host=st.from_regex(r"[a-z][a-z0-9-]{0,8}", fullmatch=True),
    port=st.integers(1, 65535),
    database=st.integers(0, 15),
    password=safe_text,
    is_tls=st.booleans(),
)
def test_url_and_its_parts_agree(host: str, port: int, database: int, password: str, is_tls: bool):
    credentials = f":{password}@" if password else ""
    redis = parse_url(f"{'rediss' if is_tls else 'redis'}://{credentials}{host}:{port}/{database}")
    wanted = Redis(kind=RedisKind.URL, host=host, port=port, database=database, password=password, is_tls=is_tls)
    assert redis == wanted
    assert redis.shown == f"{'rediss' if is_tls else 'redis'}://{host}:{port}/{database}"
    assert redis.connection_string.startswith(f"{host}:{port},db={database}")
    assert ("password=${MSD_REDIS_PASSWORD}" in redis.connection_string) == bool(password)


def test_binary_is_a_redis_server():
    answer = subprocess.run([find_binary(), "--version"], capture_output=True, text=True, check=True)
    assert "Redis server" in answer.stdout


def test_foreground_server_prints_its_address_and_ends_on_interrupt(children: ForkedChildren, tmp_path: Path):
    with children.running(serve_redis, tmp_path) as child:
        url = child.lines(1)[0]
        with redis_py.Redis.from_url(url) as client:
            assert client.ping()
        os.kill(child.pid, signal.SIGINT)
        child.ended(30)
    assert child.returncode == 0
    assert not is_listening(int(url.split(":")[2].split("/")[0]))
