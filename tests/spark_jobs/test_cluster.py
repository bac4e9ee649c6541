"""A standalone cluster is found again, and ended with all that it started, whatever was killed meanwhile."""

import os
import signal
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest

from pipeline.errors import ServiceError, UsageError
from spark_jobs.cluster import Cluster, Daemon, Size, main, read, start, stop

pytestmark = [pytest.mark.spark]
ONE = Size(workers=1, memory="512m")


@pytest.fixture
def folder(tmp_path):
    yield tmp_path / "spark_cluster"
    stop(tmp_path / "spark_cluster")


@pytest.mark.slow
def test_a_second_start_finds_the_first_and_stop_leaves_nothing(folder, capsys):
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(lambda _: start(folder, ONE), range(2))
    assert first == second
    assert first.master.startswith("spark://127.0.0.1:")
    assert main(["status", "--work", str(folder.parent)]) == 0
    assert capsys.readouterr().out == f"{first.master}\n"
    assert main(["start", "--work", str(folder.parent), "--workers", "3"]) == 2
    listening = {at.laddr.ip for daemon in first.daemons for at in sockets_of(daemon) if at.status == "LISTEN"}
    assert listening <= {"127.0.0.1", "::ffff:127.0.0.1"}
    assert main(["stop", "--work", str(folder.parent)]) == 0
    assert not any(daemon.members() for daemon in first.daemons)
    assert main(["status", "--work", str(folder.parent)]) == 1
    assert main(["stop", "--work", str(folder.parent)]) == 0


@pytest.mark.slow
def test_a_cluster_whose_worker_was_killed_is_ended_and_started_anew(folder):
    broken = start(folder, ONE)
    os.kill(broken.daemons[1].pid, signal.SIGKILL)
    psutil.wait_procs([psutil.Process(broken.daemons[1].pid)], timeout=10)
    assert not broken.is_alive()
    again = start(folder, ONE)
    assert again.is_alive()
    assert {daemon.pid for daemon in again.daemons}.isdisjoint(daemon.pid for daemon in broken.daemons)
    assert not any(daemon.members() for daemon in broken.daemons)


def test_a_process_that_has_the_number_of_a_dead_daemon_is_left_alone(folder):
    folder.mkdir()
    mine = Daemon(name="master", pid=os.getpid(), created_at=psutil.Process().create_time() - 60)
    assert mine.members() == []
    assert not mine.is_alive()
    assert not Cluster(master="spark://127.0.0.1:1", daemons=(mine, mine)).is_alive()


def test_a_cluster_of_nothing_and_an_address_elsewhere_are_wrong_calls(folder):
    with pytest.raises(UsageError, match="at least 1 of both"):
        start(folder, Size(workers=0))
    with pytest.raises(UsageError, match="no address of this machine"):
        start(folder, ONE, host="192.0.2.1")
    assert read(folder) is None


def test_a_daemon_that_dies_at_once_is_a_sentence_and_nothing_stays(folder):
    with pytest.raises(ServiceError, match=r"worker-0 ended with .*see .*worker-0\.log"):
        start(folder, Size(workers=1, memory="nonsense"))
    assert read(folder) is None


def sockets_of(daemon):
    return [at for process in daemon.members() for at in process.net_connections("inet")]
