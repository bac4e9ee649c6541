"""examples on a cluster: the rows of feature_repo/examples.py, joined as of their time by one window per entity.

Labels and the rows of the views come together by key, in the order of time, and each label takes the latest row before
it: no pairs are made, whatever a history's length. Each entity costs one shuffle of labels and views together.

A window lies in one task, so a key with very many rows would be one long task. The time of such a key is therefore cut
into stretches of about equal size, each a window of its own, and every stretch is handed the latest row before it.
"""

import shutil
from collections.abc import Mapping, Sequence
from functools import reduce

import pyarrow as pa
from pyspark.sql import Column, DataFrame, SparkSession, Window
from pyspark.sql import functions as F

from feature_repo.examples import wanted_rows
from feature_repo.point_in_time import MICROSECOND, TIME, RowNumbers
from pipeline import schemas
from pipeline.job import Job
from pipeline.rows import forget_shard_size
from pipeline.storage import Outcome
from spark_jobs.entries import as_uri
from spark_jobs.execute import execute as execute_table
from spark_jobs.execute import read_dataset
from spark_jobs.session import spark_schema
from spark_jobs.tables import Made
from spark_jobs.times import micros

BUSY_ROWS = 1_000_000
"""A key with more labels and rows than this is cut."""
STRETCHES = 64
HISTORIES = "_histories"
"""Folder beside the shards while they are made: the executors read the histories' row numbers there."""
FIRST = -(2**63)
"""Before every time."""
KEY, STRETCH, AT, LABEL, CUTS = "_key", "_stretch", "_at", "_label", "_cuts"


def execute(job: Job) -> Outcome:
    """Makes the dataset on the cluster; its shards are Spark's own.

    Raises:
        SpaceMismatch: the features are of two spaces.
        StageError: Spark failed.
        ServiceError: Java is absent or does not start.
    """
    outcome = execute_table(job, _made)
    shutil.rmtree(job.output.folder / HISTORIES, ignore_errors=True)
    return outcome


def _made(job: Job, spark: SparkSession) -> Made:
    # Spark cuts by its own partitions: what a killed job leaves must not pass for shards of this process's size.
    forget_shard_size(job)
    wanted = wanted_rows(job.inputs, job.output.folder / HISTORIES)
    return make(read_dataset(spark, job.inputs["interactions"]), wanted)


def make(interactions: DataFrame, wanted: Sequence[RowNumbers]) -> Made:
    """The examples of all events but those of the split `history`."""
    is_label = F.col("split") != "history"
    joined = join_as_of(interactions.filter(is_label), wanted)
    missing = [field for field in spark_schema(schemas.EXAMPLES) if field.name not in joined.columns]
    return Made(
        rows=joined.withColumns({field.name: F.lit(None).cast(field.dataType) for field in missing}).select(
            *schemas.EXAMPLES.names
        ),
        order=("event_id",),
        skipped=interactions.filter(~is_label),
    )


def join_as_of(labels: DataFrame, wanted: Sequence[RowNumbers], busy_rows: int = BUSY_ROWS) -> DataFrame:
    """Adds the wanted columns to labels, as feature_repo.point_in_time does; every label stays, in no order.

    Args:
        labels: with `event_at` and the keys of the views.
        wanted: row numbers of views.
        busy_rows: of one key, from which on its time is cut.
    """
    known = {numbers.name: _known(labels.sparkSession, numbers) for numbers in wanted}
    joined = labels
    for key in sorted({numbers.plan.key.name for numbers in wanted}):
        views = [numbers for numbers in wanted if numbers.plan.key.name == key]
        rows = _union([known[numbers.name] for numbers in views])
        # Counted on the labels as they came, which are read for it once more: joined ones would be joined once more.
        cuts = _cuts(_union([_asked(labels, key).select(KEY, AT), rows.select(KEY, AT)]), busy_rows)
        joined = _join_key(_placed(_asked(joined, key), cuts), _placed(rows, cuts), views)
    return joined


def _asked(labels: DataFrame, key: str) -> DataFrame:
    """Key, time and, as one column, the whole of each label."""
    return labels.select(F.col(key).alias(KEY), micros(TIME).alias(AT), F.struct(*labels.columns).alias(LABEL))


def _known(spark: SparkSession, numbers: RowNumbers) -> DataFrame:
    """Key, time and, under the wanted name, (time, created, number) of a view's rows."""
    plan = numbers.plan
    files = [as_uri(path) for path in sorted(plan.files.glob("*.parquet"))]
    times = [pa.field(name, schemas.TIME) for name in ("event_timestamp", "created")]
    schema = pa.schema([plan.key, pa.field(numbers.column, pa.int64()), *times])
    at = micros("event_timestamp")
    row = F.struct(at.alias("at"), micros("created").alias("created"), F.col(numbers.column).alias("number"))
    rows = spark.read.schema(spark_schema(schema)).parquet(*files)
    # A window holds null keys together, a join of equal keys does not.
    return rows.filter(F.col(plan.key.name).isNotNull()).select(
        F.col(plan.key.name).alias(KEY), at.alias(AT), row.alias(numbers.name)
    )


def _cuts(rows: DataFrame, busy_rows: int) -> DataFrame:
    """Of each busy key the times that cut its rows into about equal stretches; few rows, sent to every executor."""
    shares = [number / STRETCHES for number in range(1, STRETCHES)]
    busy = rows.groupBy(KEY).agg(F.count(F.lit(1)).alias("n")).filter(F.col("n") > busy_rows).select(KEY)
    theirs = rows.join(F.broadcast(busy), on=KEY, how="inner")
    return F.broadcast(theirs.groupBy(KEY).agg(F.percentile_approx(AT, shares).alias(CUTS)))


def _placed(rows: DataFrame, cuts: DataFrame) -> DataFrame:
    """The rows with the stretch of their key's time they lie in: 0 for keys that are not cut."""
    passed = F.size(F.filter(CUTS, lambda cut: cut <= F.col(AT)))
    return rows.join(cuts, on=KEY, how="left").withColumn(STRETCH, F.when(F.col(CUTS).isNull(), 0).otherwise(passed))


def _join_key(asked: DataFrame, known: DataFrame, views: Sequence[RowNumbers]) -> DataFrame:
    """The labels with the numbers of views of one key."""
    names = [numbers.name for numbers in views]
    together = _union([asked, known, _carried(known, names)])
    # A label comes after the rows of its own time; among these the latest created is the last, then the largest number.
    order = [F.col(AT), F.col(LABEL).isNotNull(), *(F.col(name) for name in names)]
    so_far = Window.partitionBy(KEY, STRETCH).orderBy(*order).rowsBetween(Window.unboundedPreceding, Window.currentRow)
    latest = {name: F.last(name, ignorenulls=True).over(so_far) for name in names}
    joined = together.withColumns(latest).filter(F.col(LABEL).isNotNull())
    return joined.select(f"{LABEL}.*", *(_number(numbers) for numbers in views))


def _carried(known: DataFrame, names: Sequence[str]) -> DataFrame:
    """Of each busy key the latest row before each stretch but the first."""
    latest: Mapping[str, Column] = {name: F.max(name).alias(name) for name in names}
    is_followed = F.col(CUTS).isNotNull() & (F.col(STRETCH) < STRETCHES - 1)
    ends = known.filter(is_followed).groupBy(KEY, STRETCH).agg(*latest.values())
    later = F.explode(F.sequence(F.col(STRETCH) + 1, F.lit(STRETCHES - 1))).alias(STRETCH)
    handed_on = ends.select(KEY, later, *names)
    return handed_on.groupBy(KEY, STRETCH).agg(*latest.values()).withColumn(AT, F.lit(FIRST))


def _number(numbers: RowNumbers) -> Column:
    """The number of the latest row, null where it has outlived its time."""
    row, ttl = F.col(numbers.name), numbers.ttl // MICROSECOND
    number = F.when(row["at"] >= F.col(AT) - ttl, row["number"]) if ttl else row["number"]
    return number.alias(numbers.name)


def _union(frames: Sequence[DataFrame]) -> DataFrame:
    return reduce(lambda left, right: left.unionByName(right, allowMissingColumns=True), frames)


if __name__ == "__main__":
    from spark_jobs.submit import submit

    submit("examples", execute)
