"""histories: what each user did, as of each snapshot, strictly before it.

Each event carries the list of the last max_length up to itself (a window of bounded length), and a snapshot takes the
list of the last event before it, so that a user of a million events costs a million bounded lists and not their square.
Rows are shuffled once, by user; one user's events are sorted in one task.
"""

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from pipeline import config as configs
from pipeline.errors import ConfigError
from pipeline.source import Source
from spark_jobs.tables import Made
from spark_jobs.times import micros

UNITS = {"event": "", "hour": "hour", "day": "day"}
ROUNDING = 1e-9
"""Keeps a history that has grown by exactly the factor on the right side of it."""


def make(interactions: DataFrame, config: configs.Histories, source: Source) -> Made:
    """One row per user and snapshot that has an earlier event; snapshots are taken at events of every split."""
    _check(config)
    events = interactions if source.histories.events == "all" else interactions.filter(F.col("is_click") == 1)
    rows = _lists(events, source.histories.max_length).unionByName(_snapshots(interactions, config.snapshots))
    strictly_before = Window.partitionBy("user_id").orderBy(micros("at")).rangeBetween(Window.unboundedPreceding, -1)
    seen = rows.select(
        "user_id",
        "at",
        "is_snapshot",
        F.max_by("latest", "event_id").over(strictly_before).alias("latest"),
        F.count(F.when(~F.col("is_snapshot"), True)).over(strictly_before).alias("num_events"),
    )
    histories = seen.filter(F.col("is_snapshot") & (F.col("num_events") > 0)).select(
        "user_id",
        F.col("at").alias("snapshot_at"),
        "num_events",
        F.col("latest.item_id").alias("item_ids"),
        F.col("latest.event_at").alias("event_times"),
        F.col("latest.is_click").alias("labels"),
    )
    return Made(rows=histories.withColumn("is_embedded", _is_embedded(config)), order=("user_id", "snapshot_at"))


def _check(config: configs.Histories) -> None:
    if config.snapshots not in UNITS:
        raise ConfigError(f"[histories] snapshots must be one of {', '.join(UNITS)}, not '{config.snapshots}'")
    if config.embed_growth < 1 or config.embed_min_events < 1:
        raise ConfigError("[histories] embed_growth and embed_min_events must be 1 or more")


def _lists(events: DataFrame, max_length: int) -> DataFrame:
    up_to_itself = (
        Window.partitionBy("user_id").orderBy("event_at", "event_id").rowsBetween(1 - max_length, Window.currentRow)
    )
    latest = F.collect_list(F.struct("item_id", "event_at", "is_click")).over(up_to_itself)
    return events.select(
        "user_id",
        F.col("event_at").alias("at"),
        F.lit(False).alias("is_snapshot"),
        latest.alias("latest"),
        "event_id",
    )


def _snapshots(interactions: DataFrame, unit: str) -> DataFrame:
    at = F.date_trunc(UNITS[unit], "event_at") if UNITS[unit] else F.col("event_at")
    distinct = interactions.select("user_id", at.alias("at")).distinct()
    none = "array<struct<item_id:string,event_at:timestamp,is_click:tinyint>>"
    return distinct.select(
        "user_id",
        "at",
        F.lit(True).alias("is_snapshot"),
        F.lit(None).cast(none).alias("latest"),
        F.lit(None).cast("bigint").alias("event_id"),
    )


def _is_embedded(config: configs.Histories) -> Column:
    """Sizes fall into bands, each embed_growth times the one before; a band's first snapshot is embedded."""
    is_long_enough = F.col("num_events") >= config.embed_min_events
    if config.embed_growth == 1:
        return is_long_enough
    growth = F.log(F.col("num_events") / config.embed_min_events) / F.log(F.lit(config.embed_growth))
    band = F.when(is_long_enough, F.floor(growth + ROUNDING)).otherwise(-1)
    previous = F.lag(band, 1, -1).over(Window.partitionBy("user_id").orderBy("snapshot_at"))
    return is_long_enough & (band > previous)


if __name__ == "__main__":
    from spark_jobs.submit import submit

    submit("histories")
