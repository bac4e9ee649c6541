"""histories: what each user did, as of each snapshot, strictly before it.

Events and snapshots are small rows and are counted first: a snapshot's history is the numbers of its user's last
max_length events. Then both are dealt out by user and block of numbers, each event also to the next block where that
needs it, and only there lists are made. So no list is ever shuffled, sorted or held twice, and a user of a million
events is many blocks, of which each may be another task's. All a task ever sees of one user are small rows.
"""

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from pipeline import config as configs
from pipeline.errors import ConfigError
from pipeline.source import Source
from spark_jobs.tables import Made

UNITS = {"event": "", "hour": "hour", "day": "day"}
ROUNDING = 1e-9
"""Keeps a history that has grown by exactly the factor on the right side of it."""
MIN_BLOCK = 64
"""Events of a block at least: with fewer of them each event would be needed in several blocks."""


def make(interactions: DataFrame, config: configs.Histories, source: Source) -> Made:
    """One row per user and snapshot that has an earlier event; snapshots are taken at events of every split."""
    _check(config)
    is_kept = F.lit(True) if source.histories.events == "all" else F.col("is_click") == 1
    counted = _counted(_rows(interactions, is_kept, UNITS[config.snapshots]), config)
    max_length = source.histories.max_length
    blocks = _blocks(counted, max_length, max(max_length, MIN_BLOCK))
    return Made(rows=_lists(blocks, max_length), order=("user_id", "snapshot_at"), is_placed=True)


def _check(config: configs.Histories) -> None:
    if config.snapshots not in UNITS:
        raise ConfigError(f"[histories] snapshots must be one of {', '.join(UNITS)}, not '{config.snapshots}'")
    if config.embed_growth < 1 or config.embed_min_events < 1:
        raise ConfigError("[histories] embed_growth and embed_min_events must be 1 or more")


def _rows(interactions: DataFrame, is_kept: Column, unit: str) -> DataFrame:
    """Of each interaction its snapshot, and itself where histories keep it (`event` is null in a snapshot)."""
    event = F.struct("event_id", "item_id", "event_at", "is_click")
    snapshot = F.struct(
        (F.date_trunc(unit, "event_at") if unit else F.col("event_at")).alias("at"),
        F.lit(None).cast("struct<event_id:bigint,item_id:string,event_at:timestamp,is_click:tinyint>").alias("event"),
    )
    itself = F.struct(F.col("event_at").alias("at"), event.alias("event"))
    both = F.when(is_kept, F.array(snapshot, itself)).otherwise(F.array(snapshot))
    return interactions.select("user_id", F.explode(both).alias("row")).select("user_id", "row.at", "row.event")


def _counted(rows: DataFrame, config: configs.Histories) -> DataFrame:
    """Events and distinct snapshots with `num_events`: up to and with the event, or strictly before the snapshot.

    Snapshots come before the events of their time, so that one running count is right for both.
    """
    is_snapshot = F.col("event").isNull()
    ordered = Window.partitionBy("user_id").orderBy("at", ~is_snapshot, "event.event_id")
    so_far = ordered.rowsBetween(Window.unboundedPreceding, Window.currentRow)
    earlier = ordered.rowsBetween(Window.unboundedPreceding, -1)
    counted = rows.withColumn("num_events", F.count("event").over(so_far)).withColumns(
        {
            "is_repeat": is_snapshot & F.lag(F.when(is_snapshot, F.col("at"))).over(ordered).eqNullSafe(F.col("at")),
            "before": F.last(F.when(is_snapshot, F.col("num_events")), ignorenulls=True).over(earlier),
        }
    )
    grown = _is_long_enough("num_events", config) & (_band("num_events", config) > _band("before", config))
    is_embedded = _is_long_enough("num_events", config) if config.embed_growth == 1 else grown
    kept = counted.filter(~is_snapshot | (~F.col("is_repeat") & (F.col("num_events") > 0)))
    return kept.select("user_id", "at", "event", "num_events", is_embedded.alias("is_embedded"))


def _is_long_enough(num_events: str, config: configs.Histories) -> Column:
    return F.coalesce(F.col(num_events) >= config.embed_min_events, F.lit(False))


def _band(num_events: str, config: configs.Histories) -> Column:
    """Sizes fall into bands, each embed_growth times the one before; a band's first snapshot is embedded."""
    growth = F.log(F.col(num_events) / config.embed_min_events) / F.log(F.lit(config.embed_growth))
    return F.when(_is_long_enough(num_events, config), F.floor(growth + ROUNDING)).otherwise(-1)


def _blocks(counted: DataFrame, max_length: int, size: int) -> DataFrame:
    """A row per user and block: its snapshots, and the events, by number, that any of them may need.

    The range is shuffled whole, so that blocks are placed in the order of the dataset already.
    """
    number = F.col("num_events") - 1
    own = F.floor(number / size)
    is_needed_next = F.col("event").isNotNull() & (number % size > size - max_length)
    dealt = counted.withColumn(
        "block", F.explode(F.when(is_needed_next, F.array(own, own + 1)).otherwise(F.array(own)))
    )
    numbered_event = F.when(F.col("event").isNotNull(), F.struct("num_events", "event"))
    snapshot = F.when(F.col("event").isNull(), F.struct("at", "num_events", "is_embedded"))
    placed = dealt.repartitionByRange("user_id", "block")
    grouped = placed.groupBy("user_id", "block").agg(
        F.array_sort(F.collect_list(numbered_event)).alias("events"),
        F.array_sort(F.collect_list(snapshot)).alias("snapshots"),
    )
    return grouped.sortWithinPartitions("user_id", "block")


def _lists(blocks: DataFrame, max_length: int) -> DataFrame:
    each = blocks.select("user_id", "events", F.explode("snapshots").alias("snapshot"))
    num_events = F.col("snapshot.num_events")
    length = F.least(num_events, F.lit(max_length)).cast("int")
    # The block's events are numbered without a gap.
    first = (num_events - length - F.col("events")[0]["num_events"] + 2).cast("int")
    listed = each.withColumn("latest", F.slice("events.event", first, length))
    return listed.select(
        "user_id",
        F.col("snapshot.at").alias("snapshot_at"),
        num_events.alias("num_events"),
        F.col("latest.item_id").alias("item_ids"),
        F.col("latest.event_at").alias("event_times"),
        F.col("latest.is_click").alias("labels"),
        F.col("snapshot.is_embedded").alias("is_embedded"),
    )


if __name__ == "__main__":
    from spark_jobs.submit import submit

    submit("histories")
