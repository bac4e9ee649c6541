"""What every check of the audit starts from, and the shape of what it finds."""

from dataclasses import dataclass

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from pipeline.source import Source


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """The truth, and the examples held against it."""

    rows: DataFrame
    """The examples: their row numbers, and all else as interactions have it."""
    interactions: DataFrame
    items: DataFrame
    users: DataFrame
    limits: DataFrame
    """One row of times: log_began_at, last_train_at, last_valid_at, window_ends_at (of training)."""
    source: Source

    @property
    def limited_rows(self) -> DataFrame:
        """The examples, each beside the limits."""
        return self.rows.crossJoin(F.broadcast(self.limits))

    @property
    def known_since(self) -> DataFrame:
        """item_id and when its text was known: as the source says, else the first event, else the log's."""
        began = self.interactions.groupBy("item_id").agg(F.min("event_at").alias("began_at"))
        joined = self.items.join(began, on="item_id", how="left").crossJoin(F.broadcast(self.limits))
        since = F.coalesce("available_at", "began_at", "log_began_at")
        return joined.select("item_id", since.alias("known_since_at"))


def leaks_of(rows: DataFrame, kind: str, evidence: Column, known_at: Column) -> DataFrame:
    """The rows for which there is evidence (which is not null), as rows of the audit."""
    judged = rows.withColumn("evidence", evidence).filter(F.col("evidence").isNotNull())
    return judged.select(
        "event_id",
        "user_id",
        "item_id",
        "event_at",
        "split",
        F.lit(kind).alias("leak"),
        known_at.cast("timestamp").alias("known_at"),
        "evidence",
    )


def row_numbered(frame: DataFrame, name: str) -> DataFrame:
    """A committed dataset's rows with the number that its order of shards gives them, however it is sorted.

    Each file starts where those before it end; only the sizes of files are gathered.
    """
    placed = frame.select("*", F.col("_metadata.file_name").alias("_file"), F.col("_metadata.row_index").alias("_row"))
    sizes = placed.groupBy("_file").agg((F.max("_row") + 1).alias("size"))
    earlier = Window.orderBy("_file").rowsBetween(Window.unboundedPreceding, -1)
    starts = sizes.select("_file", F.coalesce(F.sum("size").over(earlier), F.lit(0)).alias("_start"))
    numbered = placed.join(F.broadcast(starts), on="_file", how="inner")
    return numbered.withColumn(name, F.col("_row") + F.col("_start")).drop("_file", "_row", "_start")


def told(sentence: str, time: str) -> Column:
    """A sentence with the time of a column where it says %s."""
    return F.format_string(sentence, F.date_format(time, "yyyy-MM-dd HH:mm:ss"))
