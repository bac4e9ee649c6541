"""A real Spark standalone cluster on one machine: `python -m spark_jobs.cluster start | status | stop --work DIR`.

pip's pyspark brings the master and the worker but no script that starts them. Each is a JVM in a session of its own, so
that whatever it starts (executors, their Python processes) is found by that session and stopped with it. What was
started stands in DIR/spark_cluster/cluster.json from the moment it runs, beside the logs: a start that was killed is
stopped like any other. All listen on the loopback unless --host says otherwise; Spark asks nobody for a password, so
that whoever reaches the master's port can run programs here.
"""

import argparse
import contextlib
import fcntl
import json
import os
import re
import shutil
import socket
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import psutil
import pyspark

from pipeline.errors import MsdError, ServiceError, UsageError
from pipeline.progress import note
from pipeline.storage import write_atomically
from spark_jobs.class_archive import java_options
from spark_jobs.session import SMALL_JVM, check_java

LOOPBACK = "127.0.0.1"
MASTER = "org.apache.spark.deploy.master.Master"
WORKER = "org.apache.spark.deploy.worker.Worker"
DAEMON_MEMORY = "256m"
START_SECONDS = 120.0
STOP_SECONDS = 10.0
STATE_FILE = "cluster.json"
LOCAL_FOLDER = "local"
"""Shuffled and spilled rows; removed when the cluster is stopped."""


@dataclass(frozen=True, kw_only=True)
class Daemon:
    """One JVM that was started: the leader of a session."""

    name: str
    pid: int
    created_at: float
    """What the system says of its start, so that another process of the same number is not taken for it."""

    def members(self) -> list[psutil.Process]:
        """Every process of its session that is alive; none where the number has gone to another process."""
        with contextlib.suppress(psutil.NoSuchProcess):
            if psutil.Process(self.pid).create_time() != self.created_at:
                return []
        return [process for process in psutil.process_iter() if _session_of(process) == self.pid]

    def is_alive(self) -> bool:
        """Whether the JVM itself runs."""
        with contextlib.suppress(psutil.NoSuchProcess):
            process = psutil.Process(self.pid)
            return process.create_time() == self.created_at and process.status() != psutil.STATUS_ZOMBIE
        return False


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """A cluster that was started: what `--master` takes, and its processes, the master's first."""

    master: str
    daemons: Sequence[Daemon] = field(default_factory=tuple)

    def is_alive(self) -> bool:
        """Whether the master and every worker run."""
        return len(self.daemons) > 1 and all(daemon.is_alive() for daemon in self.daemons)


@dataclass(frozen=True, kw_only=True)
class Size:
    """How much of this machine the cluster may use."""

    workers: int = 2
    cores: int = 1
    """Of each worker: tasks that it runs side by side."""
    memory: str = "1g"
    """Of each worker, for executors; as Spark writes it."""


def start(folder: Path, size: Size | None = None, host: str = LOOPBACK, worker_options: str = "") -> Cluster:
    """Starts a master and its workers and waits until they know each other; one that runs already is left as it is.

    Args:
        folder: for logs, the executors' files and what was started.
        size: number and size of the workers.
        host: the address that all listen on.
        worker_options: SPARK_WORKER_OPTS.

    Raises:
        UsageError: a cluster with another number of workers runs in the folder, or the size is none.
        ServiceError: Java is absent, or a daemon does not come up.
    """
    size = size or Size()
    if size.workers < 1 or size.cores < 1:
        raise UsageError(f"--workers {size.workers} --cores {size.cores}: a cluster has at least 1 of both")
    options = {"SPARK_DAEMON_JAVA_OPTS": _java_options()}
    if worker_options:
        options["SPARK_WORKER_OPTS"] = worker_options
    folder.mkdir(parents=True, exist_ok=True)
    with _alone(folder):
        known = read(folder)
        if known is not None and known.is_alive():
            return _checked(known, size, folder)
        _end(folder)
        try:
            return _started(folder, size, host, options)
        except BaseException:
            _end(folder)
            raise


def stop(folder: Path) -> None:
    """Ends the cluster's processes and all they started; nothing happens where none runs."""
    if (folder / STATE_FILE).is_file():
        with _alone(folder):
            _end(folder)


def read(folder: Path) -> Cluster | None:
    """What was started in the folder and not stopped, alive or not."""
    path = folder / STATE_FILE
    if not path.is_file():
        return None
    told = json.loads(path.read_text(encoding="utf-8"))
    return Cluster(master=told["master"], daemons=tuple(Daemon(**daemon) for daemon in told["daemons"]))


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Two calls on one folder come one after the other; a killed one lets go by itself."""
    with (folder / "start.lock").open("a+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _checked(known: Cluster, size: Size, folder: Path) -> Cluster:
    found = len(known.daemons) - 1
    if found != size.workers:
        raise UsageError(
            f"a cluster of {found} workers runs at {known.master}, and {size.workers} are wanted; first run:"
            f" python -m spark_jobs.cluster stop --work {folder.parent}"
        )
    return known


def _end(folder: Path) -> None:
    known = read(folder)
    if known is None:
        return
    ending = [process for daemon in reversed(known.daemons) for process in daemon.members()]
    for process in ending:
        _signal(process, is_final=False)
    _, left = psutil.wait_procs(ending, timeout=STOP_SECONDS)
    # An executor may have started another process meanwhile: the sessions are looked through once more.
    for process in {*left, *(process for daemon in known.daemons for process in daemon.members())}:
        _signal(process, is_final=True)
    psutil.wait_procs(left, timeout=STOP_SECONDS)
    shutil.rmtree(folder / LOCAL_FOLDER, ignore_errors=True)
    (folder / STATE_FILE).unlink(missing_ok=True)


def _started(folder: Path, size: Size, host: str, options: Mapping[str, str]) -> Cluster:
    port = _free_port(host)
    master = f"spark://{host}:{port}"
    daemons = []
    for name, words in _commands(folder, size, master, port):
        daemons.append(_launch(folder / f"{name}.log", [*words[:1], "--host", host, *words[1:]], options))
        cluster = Cluster(master=master, daemons=tuple(daemons))
        write_atomically(folder / STATE_FILE, json.dumps(asdict(cluster), indent=1).encode())
        if name == "master":
            _wait_for(folder / "master.log", "New state: ALIVE", 1, cluster)
    _wait_for(folder / "master.log", "Registering worker", size.workers, cluster)
    return cluster


def _java_options() -> str:
    """A daemon has little to compute: what it costs is its start."""
    return os.environ.get("SPARK_DAEMON_JAVA_OPTS") or f"{SMALL_JVM} {java_options(check_java())}"


def _commands(folder: Path, size: Size, master: str, port: int) -> Iterator[tuple[str, list[str]]]:
    """Name and words of each daemon; their web pages take any free port."""
    yield "master", [MASTER, "--port", str(port), "--webui-port", "0"]
    for number in range(size.workers):
        name = f"worker-{number}"
        shutil.rmtree(folder / name, ignore_errors=True)
        room = ["--cores", str(size.cores), "--memory", size.memory, "--work-dir", str((folder / name).absolute())]
        yield name, [WORKER, "--webui-port", "0", *room, master]


def _launch(log: Path, words: Sequence[str], options: Mapping[str, str]) -> Daemon:
    """Starts a daemon with its words on the log; executors run the Python that started the cluster."""
    spark_class = Path(pyspark.__file__).parent / "bin" / "spark-class"
    local = log.parent / LOCAL_FOLDER
    local.mkdir(exist_ok=True)
    environment = {
        "SPARK_LOCAL_IP": words[words.index("--host") + 1],
        "SPARK_DAEMON_MEMORY": DAEMON_MEMORY,
        "SPARK_LOCAL_DIRS": str(local.absolute()),
        "PYSPARK_PYTHON": os.environ.get("PYSPARK_PYTHON", sys.executable),
        **options,
    }
    opened = (os.POSIX_SPAWN_OPEN, 1, str(log), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    # Not subprocess, whose object would have to be kept and waited for by whoever starts a cluster and goes.
    pid = os.posix_spawn(
        spark_class,
        [str(spark_class), *words],
        os.environ | environment,
        file_actions=[(os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0), opened, (os.POSIX_SPAWN_DUP2, 1, 2)],
        setsid=True,
    )
    return Daemon(name=log.stem, pid=pid, created_at=psutil.Process(pid).create_time())


def _wait_for(log: Path, pattern: str, times: int, cluster: Cluster) -> None:
    end = time.monotonic() + START_SECONDS
    while len(re.findall(pattern, log.read_text(errors="replace"))) < times:
        dead = [daemon.name for daemon in cluster.daemons if not daemon.is_alive()]
        if dead or time.monotonic() > end:
            silent = log.with_name(f"{dead[0]}.log") if dead else log
            said = [line.strip() for line in silent.read_text(errors="replace").splitlines() if line.strip()]
            raise ServiceError(
                f"the cluster does not come up: {silent.stem} {'ended' if dead else 'is silent'} with"
                f" '{said[-1] if said else 'no word'}'; see {silent}"
            )
        time.sleep(0.1)


def _signal(process: psutil.Process, *, is_final: bool) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        if is_final:
            process.kill()
        else:
            process.terminate()


def _session_of(process: psutil.Process) -> int | None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        return os.getsid(process.pid)
    return None


def _free_port(host: str) -> int:
    with socket.socket() as probe:
        try:
            probe.bind((host, 0))
        except OSError as error:
            raise UsageError(f"--host {host} is no address of this machine ({error.strerror})") from error
        return int(probe.getsockname()[1])


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; a master's address is the only thing on stdout."""
    parser = argparse.ArgumentParser(prog="python -m spark_jobs.cluster", description="A standalone cluster, here.")
    parser.add_argument("command", choices=("start", "status", "stop"))
    parser.add_argument("--work", type=Path, default=Path("work"), help="its files lie in WORK/spark_cluster")
    parser.add_argument("--workers", type=int, default=Size.workers)
    parser.add_argument("--cores", type=int, default=Size.cores, help="of each worker")
    parser.add_argument("--memory", default=Size.memory, help="of each worker, such as 4g")
    parser.add_argument("--host", default=LOOPBACK, help="what it listens on; Spark asks nobody for a password")
    call = parser.parse_args(arguments)
    folder = call.work / "spark_cluster"
    try:
        return _answer(call, folder)
    except MsdError as error:
        note(f"cluster: {error}")
        return error.exit_code


def _answer(call: argparse.Namespace, folder: Path) -> int:
    if call.command == "stop":
        stop(folder)
        return 0
    if call.command == "start":
        start(folder, Size(workers=call.workers, cores=call.cores, memory=call.memory), call.host)
    cluster = read(folder)
    if cluster is None:
        note(f"cluster: none was started in {folder}; run: python -m spark_jobs.cluster start --work {call.work}")
        return 1
    for daemon in cluster.daemons:
        note(f"{daemon.name}: {'runs' if daemon.is_alive() else 'ended'}, process {daemon.pid}")
    sys.stdout.write(f"{cluster.master}\n")
    return 0 if cluster.is_alive() else 1


if __name__ == "__main__":
    sys.exit(main())
