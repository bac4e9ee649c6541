"""The standalone cluster that users start (`spark_jobs.cluster`), for the length of a test, and spark-submit on it."""

import contextlib
import functools
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import psutil

from spark_jobs.class_archive import java_options
from spark_jobs.cluster import Cluster, Size, start, stop
from spark_jobs.session import check_java

EXECUTOR = "org.apache.spark.executor.CoarseGrainedExecutorBackend"
QUICK_START = "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC"
"""Jobs of seconds are done before the better compiler pays."""
SMALL = {
    "spark.ui.enabled": "false",
    "spark.executor.memory": "512m",
    "spark.driver.memory": "512m",
    "spark.executor.cores": "1",
    "spark.driver.extraJavaOptions": QUICK_START,
    "spark.executor.extraJavaOptions": QUICK_START,
}


@functools.cache
def small() -> dict[str, str]:
    """The settings of a driver and executors of seconds; the driver reads the archive of Spark's classes, if any."""
    return SMALL | {"spark.driver.defaultJavaOptions": java_options(check_java())}


class StandaloneCluster:
    """Its address, and what runs on it."""

    def __init__(self, running: Cluster, folder: Path) -> None:
        self.running = running
        self.master = running.master
        self.folder = folder

    def executors(self) -> list[psutil.Process]:
        """JVMs that run tasks at the moment."""
        members = [process for daemon in self.running.daemons for process in daemon.members()]
        return [process for process in members if _is_executor(process)]

    def submit(self, script: Path, *arguments: str, confs: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
        """Starts spark-submit, whose driver stays in client mode as Python needs on such a cluster."""
        words = submit_words(self.master, script, *arguments, confs=confs)
        with (self.folder / "driver.log").open("w") as out:
            return subprocess.Popen(words, env=environment(), stdout=out, stderr=out, text=True)


def submit_words(master: str, script: Path, *arguments: str, confs: Mapping[str, str] | None = None) -> list[str]:
    """The words of a spark-submit that fits beside a test."""
    told = [word for key, value in (small() | dict(confs or {})).items() for word in ("--conf", f"{key}={value}")]
    return [str(Path(sys.executable).parent / "spark-submit"), "--master", master, *told, str(script), *arguments]


def environment() -> dict[str, str]:
    """Of a driver on the loopback."""
    return os.environ | {"SPARK_LOCAL_IP": "127.0.0.1", "PYSPARK_PYTHON": sys.executable}


@contextlib.contextmanager
def standalone_cluster(folder: Path, num_workers: int = 2, options: str = "") -> Iterator[StandaloneCluster]:
    """A master and workers of one core each.

    Args:
        folder: for logs and the executors' files.
        num_workers: on this machine.
        options: SPARK_WORKER_OPTS.
    """
    try:
        running = start(folder / "spark_cluster", Size(workers=num_workers), worker_options=options)
        yield StandaloneCluster(running, folder)
    finally:
        stop(folder / "spark_cluster")


def _is_executor(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
        return EXECUTOR in process.cmdline()
    return False
