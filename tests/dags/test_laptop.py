"""The launcher, without an Airflow: its settings and secrets, whose processes it ends, and its sums of time."""

import configparser
import os
import socket
import stat
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dags.laptop.chain_run import CHAIN, ChainRun, Hop, day
from dags.laptop.cli import main, params
from dags.laptop.home import MARK, Home, environment, find_home, make_home
from dags.laptop.overhead import covered_seconds
from dags.laptop.services import SERVICE, SERVICES, PortTaken, check_alive, listens, members, running, stop_all
from pipeline.errors import UsageError

SLEEP = [sys.executable, "-c", "import time; time.sleep(60)"]


@pytest.fixture
def dags(tmp_path: Path) -> Path:
    folder = tmp_path / "dags"
    folder.mkdir()
    return folder


@pytest.fixture
def home(tmp_path: Path, dags: Path) -> Home:
    return make_home(tmp_path / "work, 100% ours", dags, None)


def settings(home: Home) -> configparser.ConfigParser:
    read = configparser.ConfigParser()
    read.read(home.folder / "airflow.cfg", encoding="utf-8")
    return read


def is_reached(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_secrets_are_the_owners_and_stay_the_same(home, dags):
    path = home.folder / "airflow.cfg"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(home.folder.stat().st_mode) == 0o700
    names = (("core", "fernet_key"), ("api", "secret_key"), ("api_auth", "jwt_secret"))
    before = [settings(home).get(*name) for name in names]
    assert len({*before}) == 3
    again = make_home(home.work, dags, None)
    assert [settings(again).get(*name) for name in names] == before
    assert again.identity == home.identity
    assert not {*before} & {*environment(home).values()}


def test_settings_hold_against_odd_folders_and_the_callers_variables(home, monkeypatch):
    assert settings(home).get("database", "sql_alchemy_conn") == f"sqlite:///{home.folder}/airflow.db"
    assert settings(home).get("api", "base_url") == home.url
    monkeypatch.setenv("AIRFLOW__API__PORT", "1")
    monkeypatch.setenv("AIRFLOW__SMTP__SMTP_HOST", "mail.example")
    inherited = environment(home)
    assert "AIRFLOW__API__PORT" not in inherited
    assert inherited["AIRFLOW__SMTP__SMTP_HOST"] == "mail.example"


def test_a_port_in_use_is_another_programs(tmp_path, dags):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UsageError, match="in use"):
            make_home(tmp_path / "work", dags, port)


def test_another_program_at_the_address_is_not_taken_for_this_airflow(home):
    serve = "import socket, sys, time; s = socket.create_server(('127.0.0.1', int(sys.argv[1]))); time.sleep(60)"
    command = [sys.executable, "-c", serve, str(home.port)]
    for variables, is_ours in ((os.environ, False), (environment(home), True)):
        process = subprocess.Popen(command, env=variables)
        try:
            end = time.monotonic() + 30
            while not is_reached(home.port):
                assert time.monotonic() < end, "nobody listens"
                time.sleep(0.05)
            assert listens(home) is is_ours
        finally:
            process.kill()
            process.wait()


def test_a_port_that_somebody_else_was_quicker_to_take_is_told_apart(home):
    for name in SERVICES:
        (home.folder / f"{name}.log").write_text("error while attempting to bind: address already in use\n")
    with pytest.raises(PortTaken, match="has ended"):
        check_alive(home)


def test_only_what_carries_the_mark_is_ended(home):
    ours = subprocess.Popen(SLEEP, env=os.environ | {MARK: home.identity}, start_new_session=True)
    others = subprocess.Popen(SLEEP, env=os.environ | {MARK: "another"})
    try:
        (home.folder / "pids").mkdir()
        (home.folder / "pids" / "scheduler").write_text(str(others.pid))
        assert running(home, "scheduler") is None, "the number of a process that ended was given to another"
        (home.folder / "pids" / "api-server").write_text(str(ours.pid))
        assert running(home, "api-server").pid == ours.pid
        assert [process.pid for process in members(home)] == [ours.pid]
        assert stop_all(home) == 1
        assert not psutil.pid_exists(ours.pid)
        assert others.poll() is None
        assert stop_all(home) == 0
    finally:
        for process in (ours, others):
            process.kill()
            process.wait()


def test_a_service_whose_number_was_never_written_down_is_found(home):
    command = [sys.executable, "-c", "import time; time.sleep(60)  # airflow scheduler"]
    variables = os.environ | {MARK: home.identity, SERVICE: "scheduler"}
    # What the scheduler starts is not the scheduler, though it inherits the name.
    with (
        subprocess.Popen(command, env=variables, start_new_session=True) as leader,
        subprocess.Popen(command, env=variables) as task,
    ):
        try:
            assert running(home, "scheduler").pid == leader.pid
            assert running(home, "triggerer") is None
            leader.kill()
            leader.wait()
            assert running(home, "scheduler") is None
        finally:
            leader.kill()
            task.kill()


def test_a_process_that_ignores_being_asked_is_killed(home):
    stubborn = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", stubborn], env=os.environ | {MARK: home.identity}, stdout=subprocess.PIPE
    )
    with process:
        assert process.stdout.readline()
        assert stop_all(home, term_seconds=0.5) == 1
        assert not psutil.pid_exists(process.pid)


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 20)), max_size=12))
def test_the_union_of_times_is_what_is_covered_second_by_second(intervals):
    start = datetime(2024, 1, 1, tzinfo=UTC)
    times = [(start + timedelta(seconds=at), start + timedelta(seconds=at + length)) for at, length in intervals]
    assert covered_seconds(times) == len({second for at, length in intervals for second in range(at, at + length)})


def test_a_source_file_is_found_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("mine.toml").write_text("")
    assert params("mine.toml", "tiny", ["a.b=1"], ['arms=["din"]', "teacher=served"]) == {
        "source": str(tmp_path / "mine.toml"),
        "preset": "tiny",
        "overrides": ["a.b=1"],
        "arms": ["din"],
        "teacher": "served",
    }
    assert params(None, None, None, None) == {}


@pytest.mark.parametrize("text", ["", "2024-1-2", "20240102", "2024-02-30", "yesterday", "2024-01-02T00:00:00"])
def test_a_day_is_written_one_way(text):
    with pytest.raises(UsageError, match="YYYY-MM-DD"):
        day(text)


def test_a_chain_is_over_when_its_last_dag_or_any_that_failed_is():
    chain_run = ChainRun("2024-01-02", [Hop(dag) for dag in CHAIN])
    assert not chain_run.is_over
    for hop in chain_run.hops:
        hop.run = {"state": "success", "end_date": None}
    assert chain_run.is_over
    assert chain_run.is_green
    chain_run.hops[1].run = {"state": "failed", "end_date": None}
    assert chain_run.is_over
    assert not chain_run.is_green


@pytest.mark.parametrize(
    "arguments",
    [
        ["run", "--date", "nonsense"],
        ["run", "--date", "2024-01-02", "--param", "=1"],
        ["run", "--source", "nosuch"],
        ["run", "--param", "source=tiny-world"],
        ["run", "--param", "preset=3"],
        ["run", "--param", "overrides=null"],
        ["run", "--preset", "nosuch"],
        ["run", "--set", "student.nosuch=1"],
        ["backfill", "--from", "2024-01-02", "--to", "2024-1-3"],
        ["backfill", "--from", "2024-01-02", "--to", "2024-01-03", "--source", "nosuch"],
        ["status"],
        ["up", "--dags", "nowhere"],
    ],
)
def test_a_wrong_call_says_so_before_anything_starts(arguments, tmp_path):
    with pytest.raises(SystemExit) as ended:
        main([*arguments, "--work", str(tmp_path / "work")])
    assert ended.value.code == 2
    assert find_home(tmp_path / "work") is None
