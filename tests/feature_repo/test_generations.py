"""The pointer moves whole or not at all, one publisher at a time, and never to what is not complete."""

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from feature_repo.generations import Generations, State
from feature_repo.publisher_lock import EXPIRY_SECONDS, LOCK_FILE, PublisherLock, sole_publisher
from feature_repo.redis_address import connect
from feature_repo.redis_server import running_redis
from pipeline.errors import BusyError, StageError

pytestmark = pytest.mark.redis


@pytest.fixture(scope="module")
def server(own_redis: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with running_redis(tmp_path_factory.mktemp("generations")) as redis:
        yield redis


@pytest.fixture
def client(server: Any) -> Iterator[Any]:
    with connect(server) as made:
        made.flushall()
        yield made


def made(generations: Generations, name: str, *, is_complete: bool = True, stage: str = "publication") -> str:
    facts = {"publication": f"{stage}/{name}", "keys": {"item": 1}, "bytes": 10}
    generations.begin(name, "5eed0001cafe0000", f"token {name}", facts)
    if is_complete:
        generations.complete(name, json.dumps({"generation": name}).encode(), b"basis", facts)
    return name


def states(generations: Generations) -> dict[str, tuple[State, bool, bool, bool]]:
    return {
        each.name: (each.state, each.is_active, each.is_previous, each.left_at is not None)
        for each in generations.all()
    }


def test_a_switch_moves_pointer_previous_and_time_together(client: Any, tmp_path: Path):
    generations = Generations(client, "msd")
    first, second = made(generations, "1" * 16), made(generations, "2" * 16)
    with sole_publisher(client, "msd", tmp_path) as lock:
        generations.activate(first, lock)
        assert states(generations)[first] == (State.COMPLETE, True, False, False)
        generations.activate(second, lock)
        assert states(generations) == {
            first: (State.COMPLETE, False, True, True),
            second: (State.COMPLETE, True, False, False),
        }
        generations.activate(second, lock)
        assert states(generations)[first] == (State.COMPLETE, False, True, True), "doing it twice changes nothing"
        generations.activate(first, lock)
        assert states(generations) == {
            first: (State.COMPLETE, True, False, False),
            second: (State.COMPLETE, False, True, True),
        }
    assert json.loads(client.get("msd:{msd}:active")) == {"generation": first}


def test_what_is_not_complete_is_never_read(client: Any, tmp_path: Path):
    generations = Generations(client, "msd")
    whole, begun = made(generations, "1" * 16), made(generations, "2" * 16, is_complete=False)
    with sole_publisher(client, "msd", tmp_path) as lock:
        generations.activate(whole, lock)
        for name in (begun, "3" * 16):
            with pytest.raises(StageError, match="is not complete"):
                generations.activate(name, lock)
        with pytest.raises(StageError, match="activate another one first"):
            generations.doom(whole, lock)
        generations.doom(begun, lock)
        with pytest.raises(StageError, match="is not complete"):
            generations.activate(begun, lock)
        generations.forget(begun)
    assert list(states(generations)) == [whole]
    assert not [key for key in client.keys() if b"2222" in key]  # noqa: SIM118


def test_the_previous_one_collected_is_no_longer_gone_back_to(client: Any, tmp_path: Path):
    generations = Generations(client, "msd")
    first, second = made(generations, "1" * 16), made(generations, "2" * 16)
    with sole_publisher(client, "msd", tmp_path) as lock:
        generations.activate(first, lock)
        generations.activate(second, lock)
        generations.doom(first, lock)
    assert client.get("msd:{msd}:previous") is None
    assert states(generations)[first][0] is State.COLLECTING


def test_beginning_again_keeps_what_is_complete_and_its_shards(client: Any):
    generations = Generations(client, "msd")
    name = made(generations, "1" * 16)
    generations.mark_written(name, 3)
    made(generations, name, is_complete=False)
    assert generations.written_shards(name) == {3}
    assert states(generations)[name][0] is State.COMPLETE


def test_projects_do_not_know_each_other(client: Any, tmp_path: Path):
    for project in ("rec", "myrec"):
        generations = Generations(client, project)
        made(generations, "1" * 16)
        with sole_publisher(client, project, tmp_path / project) as lock:
            generations.activate("1" * 16, lock)
    with sole_publisher(client, "rec", tmp_path / "rec") as lock:
        generations = Generations(client, "rec")
        made(generations, "2" * 16)
        generations.activate("2" * 16, lock)
        generations.doom("1" * 16, lock)
        generations.forget("1" * 16)
    assert list(states(Generations(client, "rec"))) == ["2" * 16]
    assert states(Generations(client, "myrec")) == {"1" * 16: (State.COMPLETE, True, False, False)}


def test_two_publishers_of_one_folder_or_of_two(client: Any, tmp_path: Path):
    with sole_publisher(client, "msd", tmp_path / "one"):
        for home in ("one", "two"):
            with (
                pytest.raises(BusyError, match=r"process \d+ on .*, since 20.*run the same command again"),
                sole_publisher(client, "msd", tmp_path / home),
            ):
                pass
        with sole_publisher(client, "other", tmp_path / "two"):
            assert client.get("msd:{other}:publisher")
    assert client.get("msd:{msd}:publisher") is None
    with sole_publisher(client, "msd", tmp_path / "two"):
        pass


def test_only_one_of_many_at_once_wins(client: Any, tmp_path: Path):
    won, lost = [], []
    begun, ended = threading.Barrier(8), threading.Event()

    def publish(number: int) -> None:
        begun.wait()
        try:
            with sole_publisher(client, "msd", tmp_path / str(number)):
                won.append(number)
                ended.wait(20)
        except BusyError:
            lost.append(number)
            if len(lost) == 7:
                ended.set()

    threads = [threading.Thread(target=publish, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(won), len(lost)) == (1, 7)


def test_the_lock_of_a_dead_publisher_is_taken_over_at_home_and_waited_for_elsewhere(client: Any, tmp_path: Path):
    with sole_publisher(client, "msd", tmp_path / "home") as lock:
        value = lock.value
    client.set(lock.key, value, px=60_000)
    assert (tmp_path / "home" / LOCK_FILE).read_text() == value
    with pytest.raises(BusyError), sole_publisher(client, "msd", tmp_path / "elsewhere"):
        pass
    with sole_publisher(client, "msd", tmp_path / "home"):
        assert 0 < client.pttl(lock.key) <= EXPIRY_SECONDS * 1000


def test_a_publisher_that_lost_its_lock_cannot_switch_nor_delete(client: Any, tmp_path: Path):
    generations = Generations(client, "msd")
    first, second = made(generations, "1" * 16), made(generations, "2" * 16)
    with sole_publisher(client, "msd", tmp_path) as lock:
        generations.activate(first, lock)
    stale = PublisherLock(key=lock.key, value=lock.value)
    with pytest.raises(BusyError, match="went to another publisher"):
        generations.activate(second, stale)
    with sole_publisher(client, "msd", tmp_path), pytest.raises(BusyError):
        generations.doom(second, stale)
    assert states(generations)[first] == (State.COMPLETE, True, False, False)
    assert states(generations)[second][0] is State.COMPLETE
