"""How many partitions a stage's shuffles begin with, by the bytes of what it reads.

Adaptive execution puts small partitions together once it has seen them, and cuts none but those of a skewed join; so
the number to begin with must be large enough, never fewer than the cores, and no exact one is needed. Spark's own 200
are minutes of overhead on a laptop's tables and far too few for a terabyte. Small sources run without it
(`spark_jobs.session`): their partitions are as many as are worth a task each.
"""

from collections.abc import Iterable
from pathlib import Path

from pyspark.sql import SparkSession

from pipeline.job import Job
from pipeline.source import Files, Source

SETTING = "spark.sql.shuffle.partitions"
ADAPTIVE = "spark.sql.adaptive.enabled"
WANTED_BYTES = 64 * 2**20
"""Of a partition, as the advisory size of adaptive execution."""
SMALLEST_BYTES = 2**20
"""Of a partition of a small source; what adaptive execution would not go below either."""
UNPACKED = 4
"""Bytes that a byte on disk takes between two tasks: Parquet's zstd packs about as much tighter than Spark's lz4."""
TABLES = ("items", "events", "users")
MOST = 100_000
"""The names of shards have five digits."""


def num_partitions(num_bytes: int, cores: int) -> int:
    """Partitions for so many bytes of files, a whole number of them a core, so that none of the cores waits."""
    wanted = -(-num_bytes * UNPACKED // WANTED_BYTES)
    return min(max(-(-wanted // cores), 1) * cores, MOST)


def few_partitions(num_bytes: int, cores: int) -> int:
    """Partitions of a small source's shuffles, which nobody puts together later: a core each, where it has work."""
    return min(cores, max(1, -(-num_bytes * UNPACKED // SMALLEST_BYTES)))


def partitions_of(job: Job, spark: SparkSession) -> int:
    """What a stage's shuffles begin with: the stage's own setting, else spark-submit's, else by what it reads."""
    asked = getattr(job.config, "spark_partitions", 0)
    settings = spark.sparkContext.getConf()
    if asked or settings.contains(SETTING):
        return int(asked or settings.get(SETTING) or 0)
    count = num_partitions if spark.conf.get(ADAPTIVE) == "true" else few_partitions
    return count(bytes_read(job), spark.sparkContext.defaultParallelism)


def bytes_read(job: Job) -> int:
    """Bytes of the inputs' shards and of the source's files that the stage reads."""
    inputs = sum(_size(dataset.shards()) for dataset in job.inputs.values())
    return inputs + source_bytes(job.source, job.stage.source_tables)


def source_bytes(source: Source, names: Iterable[str] = TABLES) -> int:
    """Bytes of the source's files, of all its tables or of some."""
    tables = [getattr(source, name, None) for name in names]
    listed: list[Files] = [table.files for table in tables if table is not None and hasattr(table, "files")]
    given = [path for files in listed for path in files.all_paths]
    return _size(inner for path in given for inner in (path.rglob("*") if path.is_dir() else (path,)))


def _size(paths: Iterable[Path]) -> int:
    return sum(path.stat().st_size for path in paths if path.is_file())
