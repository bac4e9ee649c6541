"""The teacher server: a stand-in for how processes are started, found and ended; the real one for what it answers."""

import json
import os
import signal
import stat
import subprocess
import sys
import threading
import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from prompt_rows import prompt_row

from msd_models.teacher import Teacher
from msd_models.teacher_command import Served, served_by
from msd_models.teacher_server import bring_up, has_died, revive, start, status, stop
from pipeline.config import TeacherOutputs
from pipeline.content_store import ContentStore
from pipeline.errors import ConfigError, ServiceError
from pipeline.schemas import PROMPTS
from pipeline.teacher_address import read_address, read_state, with_own_server

STAND_IN = str(Path(__file__).parents[2] / "support" / "stand_in_server.py")
SERVED = TeacherOutputs(generator="openai")
LONG, SHORT = 3600.0, 30.0


def stand_in(*words, model="any"):
    return Served(command=[sys.executable, STAND_IN, model, *words], variables={}, facts={"model": model})


def brought_up(folder, user="", *, served=None, idle_seconds=LONG, wait_seconds=SHORT):
    return bring_up(served or stand_in(), folder, user, idle_seconds=idle_seconds, wait_seconds=wait_seconds)


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def until(holds, seconds=30.0):
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.05)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    for name in ("OPENAI_API_KEY", "VLLM_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    yield tmp_path / "teacher_server"
    stop(tmp_path / "teacher_server", "")


def test_a_second_start_finds_the_first_and_two_at_once_make_one(folder):
    found = []
    both = [threading.Thread(target=lambda: found.append(brought_up(folder))) for _ in range(2)]
    for thread in both:
        thread.start()
    for thread in both:
        thread.join()
    assert found[0] == found[1] == brought_up(folder)
    assert status(folder)["state"] == "running"


def test_stopping_ends_everything_and_may_be_done_twice(folder):
    brought_up(folder)
    state = read_state(folder)
    child = int((folder / "child").read_text())
    assert all(alive(pid) for pid in (state["pid"], state["server_pid"], child))
    assert stop(folder, "") == "the teacher server is stopped"
    assert not any(alive(pid) for pid in (state["pid"], state["server_pid"], child))
    assert stop(folder, "") == "no teacher server runs here"
    assert status(folder) == {"state": "stopped"}
    assert not (folder / "key").exists()


@pytest.mark.parametrize("killed", ["pid", "server_pid"])
def test_what_is_killed_takes_the_rest_along_is_said_and_started_anew(folder, killed):
    first = brought_up(folder)
    state, child = read_state(folder), int((folder / "child").read_text())
    os.kill(state[killed], signal.SIGKILL)
    until(lambda: status(folder)["state"] == "died")
    second = brought_up(folder)
    assert second != first
    assert not any(alive(pid) for pid in (state["pid"], state["server_pid"], child))


def test_one_that_died_is_known_and_started_anew_for_those_who_need_it(folder):
    brought_up(folder, "2024-01-10")
    state = read_state(folder)
    assert not has_died(state)
    os.kill(state["server_pid"], signal.SIGKILL)
    until(lambda: has_died(state))
    both = [threading.Thread(target=brought_up, args=(folder, None)) for _ in range(2)]
    for thread in both:
        thread.start()
    for thread in both:
        thread.join()
    known = status(folder)
    assert (known["state"], known["users"]) == ("running", ["2024-01-10"])
    assert read_state(folder)["idle_seconds"] == LONG
    assert stop(folder, "2024-01-10") == "the teacher server is stopped"
    assert read_state(folder) is None, "one that was stopped has left nothing that could be taken for dead"


def test_what_did_not_die_here_is_not_started_anew(folder):
    revive(SERVED, folder)
    assert status(folder) == {"state": "stopped"}, "nobody started one"
    brought_up(folder)
    state = read_state(folder)
    revive(SERVED, folder)
    assert read_state(folder) == state, "it runs"
    stop(folder, "")
    revive(SERVED, folder)
    assert status(folder) == {"state": "stopped"}, "it was stopped"
    brought_up(folder)
    state = read_state(folder) | {"host": "another-machine"}
    (folder / "server.json").write_text(json.dumps(state))
    os.kill(state["server_pid"], signal.SIGKILL)
    until(lambda: not alive(state["pid"]))
    revive(SERVED, folder)
    assert read_state(folder) == state, "it died elsewhere"


def test_a_day_does_not_end_the_server_of_another(folder):
    for day in ("2024-01-10", "2024-01-11"):
        brought_up(folder, day)
    assert stop(folder, "2024-01-10") == "the teacher server stays up for 2024-01-11"
    assert stop(folder, "2024-01-10") == "the teacher server stays up for 2024-01-11"
    assert status(folder)["state"] == "running"
    assert stop(folder, "2024-01-11") == "the teacher server is stopped"


def test_another_model_is_not_served_in_its_place(folder):
    brought_up(folder)
    with pytest.raises(ServiceError, match="serves model any, and model other is wanted"):
        brought_up(folder, served=stand_in(model="other"))
    assert status(folder)["state"] == "running"


def test_a_server_that_cannot_start_is_said_with_its_last_lines(folder):
    with pytest.raises(ServiceError, match=r"ended while it started.*ValueError: no such weights"):
        brought_up(folder, served=stand_in("--fail"))
    assert status(folder) == {"state": "stopped"}


def test_a_server_that_does_not_answer_in_time_is_stopped(folder):
    with pytest.raises(ServiceError, match="did not answer within 1 s"):
        brought_up(folder, served=stand_in("--mute"), wait_seconds=1.0)
    assert status(folder) == {"state": "stopped"}


def test_a_start_that_is_killed_leaves_a_server_that_the_next_one_finds(folder):
    code = (
        "import sys; from pathlib import Path; from msd_models.teacher_command import Served;"
        "from msd_models.teacher_server import bring_up;"
        f"bring_up(Served(command=[sys.executable, {STAND_IN!r}, 'any', '--slow'], variables={{}},"
        f" facts={{'model': 'any'}}), Path({str(folder)!r}), '', idle_seconds=3600, wait_seconds=60)"
    )
    starting = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
    until(lambda: read_state(folder) is not None)
    starting.kill()
    starting.wait()
    state = read_state(folder)
    assert brought_up(folder, served=stand_in("--slow")) == state["address"]
    assert read_state(folder) == state


def test_a_server_on_another_machine_is_left_alone_until_it_is_gone(folder):
    brought_up(folder)
    state = read_state(folder)
    there = json.dumps(state | {"host": "another-machine"})
    (folder / "server.json").write_text(there)
    for refused in (lambda: brought_up(folder), lambda: read_address(folder)):
        with pytest.raises(ServiceError, match="runs on another-machine and answers there alone"):
            refused()
    assert status(folder)["state"] == "elsewhere"
    assert alive(state["server_pid"])
    (folder / "server.json").unlink()
    until(lambda: not alive(state["server_pid"]))
    (folder / "server.json").write_text(there)
    os.utime(folder / "server.json", (time.time() - 100, time.time() - 100))
    assert brought_up(folder) != state["address"]


def test_the_key_is_its_owners_alone_and_on_no_command_line(folder):
    brought_up(folder)
    key = read_address(folder).key
    assert stat.S_IMODE((folder / "key").stat().st_mode) == 0o600
    for name in ("pid", "server_pid"):
        assert key not in Path(f"/proc/{read_state(folder)[name]}/cmdline").read_text()
    assert key not in (folder / "server.json").read_text() + (folder / "server.log").read_text()


def test_the_environments_key_is_used_and_not_written(folder, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "open-sesame-now")
    brought_up(folder)
    assert not (folder / "key").exists()
    monkeypatch.setenv("OPENAI_API_KEY", "another-one-now")
    with pytest.raises(ServiceError, match="started with another key"):
        status(folder)


def test_an_idle_server_ends_by_itself(folder):
    brought_up(folder, idle_seconds=1.0)
    pids = [read_state(folder)[name] for name in ("pid", "server_pid")]
    until(lambda: not any(map(alive, pids)))
    assert status(folder) == {"state": "stopped"}


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"generator": "vllm"}, "generator is vllm, which asks no server"),
        ({"generator": "openai", "endpoint": "http://127.0.0.1:1/v1"}, "endpoint is http"),
        ({"generator": "openai", "model": "all-minilm-l6-v2"}, "has no chat template"),
        ({"generator": "openai", "tensor_parallel": 0}, "must be 1 or more"),
    ],
)
def test_settings_that_ask_no_server_are_said(folder, settings, said):
    with pytest.raises(ConfigError, match=said):
        start(TeacherOutputs(**settings), folder, "", idle_seconds=LONG, wait_seconds=SHORT)


def test_the_server_has_the_limits_of_the_model_in_process():
    command = served_by(SERVED).command
    told = dict(pairwise(command))
    assert told["--generation-config"] == "vllm"
    assert json.loads(told["--structured-outputs-config"])["backend"] == "xgrammar"
    assert told["--served-model-name"] == SERVED.model


def test_without_a_server_the_teacher_says_how_to_start_one(tmp_path):
    teacher = Teacher(with_own_server(SERVED, tmp_path), ContentStore(tmp_path / "store"))
    try:
        with pytest.raises(ServiceError, match=r"no teacher server was started.*msd teacher start"):
            list(teacher.answered(batches(range(2))))
    finally:
        teacher.close()


def batches(numbers):
    import pyarrow as pa

    titles = ("Ice cream with chocolate", "A heist in Rome", "Garden shears", "The last train home")
    rows = [prompt_row(number, f"{titles[number % 4]} {number}") for number in numbers]
    return iter(pa.Table.from_pylist(rows, schema=PROMPTS).to_batches())


@pytest.mark.vllm
@pytest.mark.xdist_group("vllm")
@pytest.mark.slow
def test_a_real_server_teaches_is_killed_said_and_brought_up_again(folder, small_llama, tmp_path):
    # A random model writes noise: only the schema makes phrases of it.
    served = replace(SERVED, model=str(small_llama), dtype="float32", max_output_tokens=256)
    address = start(served, folder, "2024-01-10", idle_seconds=LONG, wait_seconds=600.0)
    assert start(served, folder, "2024-01-11", idle_seconds=LONG, wait_seconds=600.0) == address
    config = with_own_server(served, tmp_path)
    store = ContentStore(tmp_path / "store")
    taught = Teacher(config, store)
    try:
        (made,) = taught.answered(batches(range(8)))
    finally:
        taught.close()
    statuses = made.column("status").to_pylist()
    assert statuses.count("ok") >= 6, "the schema holds the answers to phrases"
    state = read_state(folder)
    dying = Teacher(config, store)
    dying.generator.max_retries = 1
    threading.Timer(1.0, os.kill, (state["server_pid"], signal.SIGKILL)).start()
    try:
        with pytest.raises(ServiceError, match=r"does not answer.*msd teacher status.*goes on where it was"):
            list(dying.answered(batches(range(8, 400))))
    finally:
        dying.close()
    until(lambda: status(folder)["state"] == "died")
    again = Teacher(config, store)
    try:
        (made,) = again.answered(batches(range(400, 408)))
    finally:
        again.close()
    assert made.column("status").to_pylist().count("ok") >= 6
    assert status(folder)["users"] == ["2024-01-10", "2024-01-11"]
    for _ in range(2):
        stop(folder, "")
    assert status(folder) == {"state": "stopped"}
    assert not alive(state["pid"])
