"""Runs the maker of a table stage and puts its rows where the floor expects them.

The rows are written aside by Spark and moved file by file; the runner writes the manifest afterwards. A run that was
killed leaves a folder without a manifest, which the next run empties first.
"""

import importlib
import inspect
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from py4j.protocol import Py4JJavaError
from pyspark.errors import PySparkException
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from pipeline.erased import read_erased
from pipeline.errors import StageError
from pipeline.job import Job
from pipeline.rejects import check_rejected_share, reasons_told
from pipeline.schemas import REJECTED
from pipeline.storage import Dataset, Outcome, conform
from spark_jobs import shuffles
from spark_jobs.entries import as_uri
from spark_jobs.session import session, spark_schema
from spark_jobs.tables import Made, held

ASIDE = "_writing"


def execute(job: Job, call: "Callable[[Job, SparkSession], Made] | None" = None) -> Outcome:
    """Makes one table.

    Args:
        job: what is made; its folder is emptied first.
        call: who makes the rows, where it is not the stage's maker.

    Raises:
        StageError: the table is empty and may not be, too much of it was rejected, or Spark failed.
        SourceError: a file of the source cannot be read as the source says.
        ServiceError: Java is absent or does not start.
    """
    with _spark_for(job) as spark:
        _empty(job.output.folder)
        return _write(job, (call or call_maker)(job, spark))


def look(job: Job) -> tuple[pa.Table, dict[str, Any]]:
    """A table as its maker would make it of the inputs as they are now, and the details; writes nothing.

    For tables that fit in memory.

    Raises:
        StageError: Spark failed.
        ServiceError: Java is absent or does not start.
    """
    assert job.stage.schema is not None
    with _spark_for(job) as spark:
        made = call_maker(job, spark)
        rows = made.rows.select(*job.stage.schema.names).orderBy(*made.order)
        return conform(rows.toArrow(), job.stage.schema), dict(made.details)


@contextmanager
def _spark_for(job: Job) -> Iterator[SparkSession]:
    """The session under the stage's settings; says in one sentence what failed, and lets go of what was held."""
    spark = session(shuffles.source_bytes(job.source))
    before = str(spark.conf.get(shuffles.SETTING))
    spark.conf.set(shuffles.SETTING, shuffles.partitions_of(job, spark))
    try:
        yield spark
    except (PySparkException, Py4JJavaError) as error:
        raise StageError(
            f"{job.stage.name}: Spark failed: {_cause(error)}; the same command with --debug shows where"
        ) from error
    finally:
        spark.catalog.clearCache()
        spark.conf.set(shuffles.SETTING, before)


def read_dataset(spark: SparkSession, dataset: Dataset) -> DataFrame:
    """A committed table as a DataFrame of its schema's types."""
    assert dataset.schema is not None
    schema = spark_schema(dataset.schema)
    paths = [as_uri(path) for path in dataset.shards()]
    return spark.read.schema(schema).parquet(*paths) if paths else spark.createDataFrame([], schema)


def call_maker(job: Job, spark: SparkSession) -> Made:
    """What the stage's maker says, of committed inputs.

    A maker takes its inputs as DataFrames by name, and by these names what else it needs: `spark`, `config`, `source`,
    `input_settings`: of each input the settings it was made under, and `erased`: the people to leave out.
    """
    module, _, function = job.stage.maker.partition(":")
    maker: Callable[..., Made] = getattr(importlib.import_module(module), function)
    known: dict[str, Any] = {"spark": spark, "config": job.config, "source": job.source}
    known["input_settings"] = {name: (dataset.manifest or {}).get("settings") for name, dataset in job.inputs.items()}
    known["erased"] = read_erased(job.output.folder.parent.parent)
    arguments = {
        name: known[name] if name in known else read_dataset(spark, job.inputs[name])
        for name in inspect.signature(maker).parameters
        # An input that no arm reads is left out of the plan; the maker has a default for it.
        if name in known or name in job.inputs
    }
    return maker(**arguments)


def _write(job: Job, made: Made) -> Outcome:
    assert job.stage.schema is not None
    folder = job.output.folder
    rows = made.rows.select(*job.stage.schema.names)
    placed = rows if made.is_placed else rows.repartitionByRange(*made.order).sortWithinPartitions(*made.order)
    rows_ok = _save(placed, folder, folder / ASIDE)
    reasons = _save_rejected(made.rejected, folder) if made.rejected is not None else {}
    rejected = sum(reasons.values())
    skipped = made.skipped.count() if made.skipped is not None else 0
    rows_in = made.read.count() if made.read is not None else rows_ok + rejected + skipped
    _check(job, rows_in, rows_ok, skipped, reasons)
    return Outcome(
        rows_in=rows_in,
        rows_ok=rows_ok,
        rows_rejected=rejected,
        rows_skipped=skipped,
        reasons=reasons,
        details=dict(made.details),
    )


def _save_rejected(rejected: DataFrame, folder: Path) -> dict[str, int]:
    rows = held(rejected.select(*REJECTED.names))
    counted = rows.groupBy("reason").agg(F.count(F.lit(1)).alias("n")).orderBy("reason").collect()
    if counted:
        ordered = rows.repartitionByRange("reason", "source_row").sortWithinPartitions("reason", "source_row")
        _save(ordered, folder / "rejected", folder / ASIDE)
    return {row["reason"]: row["n"] for row in counted}


def _save(frame: DataFrame, folder: Path, aside: Path) -> int:
    """Writes the frame's partitions in their order as part-00000.parquet, … and returns the number of rows."""
    frame.write.mode("overwrite").parquet(f"file://{aside.resolve()}")
    folder.mkdir(parents=True, exist_ok=True)
    files = [(path, pq.read_metadata(path).num_rows) for path in sorted(aside.glob("part-*.parquet"))]
    for number, (path, _) in enumerate(pair for pair in files if pair[1]):
        path.replace(folder / f"part-{number:05d}.parquet")
    shutil.rmtree(aside)
    return sum(num_rows for _, num_rows in files)


def _check(job: Job, rows_in: int, rows_ok: int, skipped: int, reasons: dict[str, int]) -> None:
    check_rejected_share(job, rows_in, reasons)
    if rows_ok == 0 and not job.stage.may_be_empty:
        told = _why_empty(job, skipped, reasons)
        raise StageError(f"{job.stage.name} would be empty: {told}; a table with at least one row was wanted")


def _why_empty(job: Job, skipped: int, reasons: dict[str, int]) -> str:
    if reasons:
        return f"all {sum(reasons.values()):,} rows were rejected ({reasons_told(reasons)})"
    if skipped:
        last_day = getattr(job.config, "last_day", "")
        return f"all {skipped:,} rows were left out" + (f", for they are later than {last_day}" if last_day else "")
    return "the source has no rows for it"


def _empty(folder: Path) -> None:
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def _cause(error: Exception) -> str:
    """The last `Caused by` of a Java failure, else the first line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    causes = [line.removeprefix("Caused by: ") for line in lines if line.startswith("Caused by: ")]
    return (causes or lines or [type(error).__name__])[-1 if causes else 0]
