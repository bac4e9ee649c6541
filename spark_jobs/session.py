"""One Spark session for all table stages, and the Arrow schemas of the floor as Spark types.

Under spark-submit the session and its master are spark-submit's own. Elsewhere a local JVM is started on the loopback
with what a laptop can spare; its log goes to a temporary file, of which the last lines are shown when it cannot start.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyspark import SparkConf, SparkContext
from pyspark.errors import PySparkRuntimeError
from pyspark.java_gateway import launch_gateway
from pyspark.sql import SparkSession
from pyspark.sql.pandas.types import from_arrow_schema
from pyspark.sql.types import StructType

from pipeline.errors import ServiceError
from pipeline.packaged import archive
from spark_jobs import shuffles
from spark_jobs.class_archive import java_options as archive_options

SESSION_SETTINGS = {
    "spark.sql.session.timeZone": "UTC",
    "spark.sql.parquet.outputTimestampType": "TIMESTAMP_MICROS",
    "spark.sql.parquet.compression.codec": "zstd",
    "spark.sql.csv.parser.columnPruning.enabled": "false",
    "spark.sql.mapKeyDedupPolicy": "LAST_WIN",
    "spark.sql.ansi.enabled": "true",
}
"""What the results depend on, set on every session, spark-submit's own included. Column pruning would leave the fields
of a CSV row uncounted."""

ADAPTIVE_SETTINGS = {
    "spark.sql.adaptive.advisoryPartitionSizeInBytes": "64m",
    "spark.sql.adaptive.coalescePartitions.enabled": "true",
    "spark.sql.adaptive.skewJoin.enabled": "true",
    "spark.sql.adaptive.skewJoin.skewedPartitionThresholdInBytes": "128m",
    "spark.sql.autoBroadcastJoinThreshold": "32m",
    "spark.sql.inMemoryColumnarStorage.compressed": "false",
}
"""How a large source's work is cut, set where spark-submit does not say otherwise: shuffles begin with more partitions
than they need (`spark_jobs.shuffles`) and small ones are put together; a join's partition of twice the wanted size, and
five times the median, is cut; the ids of a million items are sent to every task, so that a log need not be shuffled by
them. What is held between two passes is read once or twice, and to compress it takes as long as to compute it."""

LARGE_BYTES = 16 * 2**20
"""A source whose files hold more, a million events or so, is worth a compiler that takes longer, and plans that are
made again after each shuffle. On a smaller one that replanning, and the description of the plan that Spark writes each
time, twice as long for every frame held in memory, is a third of what `prompts` cost (20 s of processor time, 13
without)."""
SMALL_JVM = "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC"
"""The first compiler alone and the plain collector halve the processor time of the six tables of MovieLens-100K (83 s
to 42) and take a third off the memory: most of that work is planning queries, not running them."""
LARGE_JVM = "-XX:+UseParallelGC"
"""Five million events are read in half the time of SMALL_JVM (38 s instead of 82), and with this collector in three
quarters of the time of Java's own."""

LOCAL_SETTINGS = {
    "spark.app.name": "msd",
    "spark.driver.memory": "1500m",
    "spark.driver.host": "127.0.0.1",
    "spark.driver.bindAddress": "127.0.0.1",
    "spark.ui.enabled": "false",
    "spark.ui.showConsoleProgress": "false",
    "spark.log.level": "ERROR",
}
REGISTERED_SHARE = "spark.scheduler.minRegisteredResourcesRatio"
"""A job is cut by the cores there are: where spark.cores.max says how many to expect, it waits for most of them."""
CHILDREN_PATH = "spark.executorEnv.PYTHONPATH"
EXECUTOR_OPTIONS = "spark.executor.defaultJavaOptions"
ON_THIS_MACHINE = ("spark://127.0.0.1:", "spark://localhost:", "local-cluster[")
"""Masters whose executors have the same files as the driver."""


STOP_SECONDS = 300
"""A JVM that writes an archive of its classes takes its time."""


def session(source_bytes: int = 0, java_options: str | None = None) -> SparkSession:
    """The running session, or a new one.

    Args:
        source_bytes: of the source's files, by which a JVM of our own is set up and queries are planned.
        java_options: of a JVM of our own, in place of those that read the archive of Spark's classes.

    Raises:
        ServiceError: Java is absent or its virtual machine does not start.
    """
    if SparkContext._active_spark_context is None:
        _start(source_bytes, java_options)
    spark = SparkSession.builder.getOrCreate()
    settings = spark.sparkContext.getConf()
    is_adaptive = {shuffles.ADAPTIVE: str(source_bytes > LARGE_BYTES).lower()}
    left_open = {key: value for key, value in (ADAPTIVE_SETTINGS | is_adaptive).items() if not settings.contains(key)}
    for key, value in (SESSION_SETTINGS | left_open).items():
        spark.conf.set(key, value)
    if str(settings.get("spark.master")).startswith("local") and not settings.contains(shuffles.SETTING):
        # What is asked outside of a stage is small.
        spark.conf.set(shuffles.SETTING, str(spark.sparkContext.defaultParallelism))
    return spark


def stop() -> None:
    """Ends the session and, where we started it, its JVM, so that the memory is free for models."""
    context = SparkContext._active_spark_context
    if context is None:
        return
    SparkSession.builder.getOrCreate().stop()
    gateway: Any = SparkContext._gateway
    if getattr(gateway, "proc", None) is None:
        return
    gateway.shutdown()
    gateway.proc.stdin.close()
    gateway.proc.wait(timeout=STOP_SECONDS)
    SparkContext._gateway = None
    SparkContext._jvm = None


def spark_schema(schema: pa.Schema) -> StructType:
    """The Spark types of one of the floor's Arrow schemas."""
    return from_arrow_schema(schema, prefer_timestamp_ntz=False)


def check_java() -> str:
    """What `java -version` says.

    Raises:
        ServiceError: Java is absent or broken; said before Spark meets it and prints a trace of its own.
    """
    home = os.environ.get("JAVA_HOME")
    java = str(Path(home) / "bin" / "java") if home else shutil.which("java")
    where = f"JAVA_HOME={home}" if home else "PATH"
    wanted = "Spark needs Java 17 or newer: install it (Debian: apt install openjdk-17-jre-headless) or set JAVA_HOME"
    if java is None or not Path(java).is_file():
        raise ServiceError(f"no java was found on {where}; {wanted}; then see: msd doctor")
    try:
        result = subprocess.run([java, "-version"], capture_output=True, text=True, check=False, timeout=60)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ServiceError(f"{java} does not run ({error}); {wanted}; then see: msd doctor") from error
    if result.returncode != 0:
        said = (result.stderr.strip().splitlines() or ["no message"])[0]
        raise ServiceError(f"{java} does not run ({said}); {wanted}; then see: msd doctor")
    return result.stderr


def _start(source_bytes: int, java_options: str | None) -> None:
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    os.environ.setdefault("PYSPARK_DRIVER_PYTHON", sys.executable)
    if "PYSPARK_GATEWAY_PORT" in os.environ or SparkContext._gateway is not None:
        SparkContext.getOrCreate(_submitted())
        return
    version = check_java()
    more = archive_options(version) if java_options is None else java_options
    conf = SparkConf(loadDefaults=False)
    for key, value in ({} if _has_master() else _local_settings(source_bytes, more)).items():
        conf.set(key, value)
    with tempfile.TemporaryFile() as log:
        try:
            gateway = launch_gateway(conf, popen_kwargs={"stdout": log, "stderr": log})  # type: ignore[no-untyped-call]
            SparkContext(conf=conf, gateway=gateway)
        except PySparkRuntimeError as error:
            raise ServiceError(f"Spark's Java process does not start: {_last_line(log)}; see: msd doctor") from error


def _submitted() -> SparkConf:
    """What spark-submit says, and what it leaves open."""
    # Before Spark's own start the settings of spark-submit are not to be seen.
    SparkContext._ensure_initialized()
    conf = SparkConf()
    if not conf.contains(REGISTERED_SHARE):
        conf.set(REGISTERED_SHARE, "0.8")
    zipped = archive()
    if zipped is not None and not conf.contains(CHILDREN_PATH):
        # Spark shows its own workers the archive, in the folder they stand in; the processes they start look here.
        conf.set(CHILDREN_PATH, os.pathsep.join((zipped.name, str(zipped.absolute()))))
    if str(conf.get("spark.master", "")).startswith(ON_THIS_MACHINE) and not conf.contains(EXECUTOR_OPTIONS):
        conf.set(EXECUTOR_OPTIONS, archive_options(check_java()))
    return conf


def _local_settings(source_bytes: int, java_options: str) -> dict[str, str]:
    os.environ.setdefault("SPARK_LOCAL_IP", "127.0.0.1")
    return {
        **LOCAL_SETTINGS,
        "spark.driver.extraJavaOptions": f"{LARGE_JVM if source_bytes > LARGE_BYTES else SMALL_JVM} {java_options}",
        "spark.master": "local[*]",
        "spark.sql.warehouse.dir": str(Path(tempfile.gettempdir()) / "msd-spark-warehouse"),
    }


def _has_master() -> bool:
    """Whether somebody chose a cluster by Spark's own means."""
    return "--master" in os.environ.get("PYSPARK_SUBMIT_ARGS", "") or "SPARK_CONF_DIR" in os.environ


def _last_line(log: Any) -> str:
    log.seek(0)
    lines = [line.strip() for line in log.read().decode(errors="replace").splitlines() if line.strip()]
    return lines[-1] if lines else "it gave no message"
