"""A real Spark standalone cluster on the loopback: a master and workers, each a JVM of its own, surely stopped."""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import psutil
import pyspark

START_SECONDS = 120
SPARK_CLASS = Path(pyspark.__file__).parent / "bin" / "spark-class"
EXECUTOR = "org.apache.spark.executor.CoarseGrainedExecutorBackend"


class StandaloneCluster:
    """Its address, and what runs on it."""

    def __init__(self, master: str, workers: Sequence[subprocess.Popen[bytes]], folder: Path) -> None:
        self.master = master
        self.workers = workers
        self.folder = folder

    def executors(self) -> list[psutil.Process]:
        """JVMs that run tasks at the moment."""
        below = [child for worker in self.workers for child in psutil.Process(worker.pid).children(recursive=True)]
        return [process for process in below if _is_executor(process)]

    def submit(self, script: Path, *arguments: str, confs: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
        """Starts spark-submit, whose driver stays in client mode as Python needs on such a cluster."""
        settings = {"spark.ui.enabled": "false", "spark.executor.memory": "512m", "spark.driver.memory": "512m"}
        settings |= {"spark.executor.cores": "1", **(confs or {})}
        told = [word for key, value in settings.items() for word in ("--conf", f"{key}={value}")]
        command = [str(Path(sys.executable).parent / "spark-submit"), "--master", self.master, *told, str(script)]
        out = (self.folder / "driver.log").open("w")
        try:
            return subprocess.Popen([*command, *arguments], env=_environment(), stdout=out, stderr=out, text=True)
        finally:
            out.close()


@contextlib.contextmanager
def standalone_cluster(folder: Path, num_workers: int = 2, options: str = "") -> Iterator[StandaloneCluster]:
    """Starts a master and workers of one core each.

    Args:
        folder: for logs and the executors' files.
        num_workers: on this machine.
        options: SPARK_WORKER_OPTS.
    """
    port = _free_port()
    address = f"spark://127.0.0.1:{port}"
    started = []
    try:
        arguments = ("--port", str(port), "--webui-port", "0")
        started.append(_start(folder / "master.log", "org.apache.spark.deploy.master.Master", *arguments))
        _wait_for(folder / "master.log", r"New state: ALIVE", 1)
        for number in range(num_workers):
            arguments = ("--cores", "1", "--memory", "1g", "--webui-port", "0", "--work-dir", str(folder / f"{number}"))
            worker = "org.apache.spark.deploy.worker.Worker"
            started.append(_start(folder / f"worker-{number}.log", worker, *arguments, address, options=options))
        _wait_for(folder / "master.log", r"Registering worker", num_workers)
        yield StandaloneCluster(address, started[1:], folder)
    finally:
        for process in reversed(started):
            _stop(process)


def _start(log: Path, name: str, *arguments: str, options: str = "") -> subprocess.Popen[bytes]:
    with log.open("wb") as out:
        return subprocess.Popen(
            [str(SPARK_CLASS), name, "--host", "127.0.0.1", *arguments],
            env=_environment() | {"SPARK_WORKER_OPTS": options, "SPARK_DAEMON_MEMORY": "256m"},
            stdout=out,
            stderr=out,
            start_new_session=True,
        )


def _environment() -> dict[str, str]:
    return os.environ | {"SPARK_LOCAL_IP": "127.0.0.1", "PYSPARK_PYTHON": sys.executable, "SPARK_LOG_DIR": os.devnull}


def _wait_for(log: Path, pattern: str, times: int) -> None:
    end = time.monotonic() + START_SECONDS
    while len(re.findall(pattern, log.read_text(errors="replace"))) < times:
        assert time.monotonic() < end, f"no '{pattern}' {times} times in:\n{log.read_text(errors='replace')[-3000:]}"
        time.sleep(0.1)


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Ends a JVM and everything it started; Python workers of executors have process groups of their own."""
    with contextlib.suppress(psutil.NoSuchProcess):
        below = psutil.Process(process.pid).children(recursive=True)
        for child in below:
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _is_executor(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
        return EXECUTOR in process.cmdline()
    return False


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
