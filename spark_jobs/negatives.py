"""Sampled negatives for logs of positives only."""

from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F

from pipeline import config as configs
from pipeline.source import Labels
from spark_jobs.tables import held, numbered, stable_hash

SPARE_DRAWS = 6


def add_negatives(events: DataFrame, items: DataFrame, config: configs.Interactions, labels: Labels) -> DataFrame:
    """The events and, after each positive label, `negatives_per_positive` items that its user never clicked.

    A negative has its positive's time, split and context. A draw is a stable hash of the event and its number, and
    points at a numbered item (`uniform`) or at a numbered positive event of the training split, whose item is taken
    (`popularity`: an item is drawn in proportion to its training clicks). Draws that hit one of the user's positives
    or repeat an item are passed over; a user who clicked nearly everything may get fewer.
    """
    wanted = labels.negatives_per_positive
    if wanted:
        events = held(events)
    spread = events.withColumn("is_sampled", F.lit(False)).withColumn("event_id", F.col("event_id") * (wanted + 1))
    if wanted == 0:
        return spread
    positives = spread.filter((F.col("is_click") == 1) & (F.col("split") != "history"))
    pool = held(_pool(events, items, labels.negatives_by))
    drawn = _draws(positives, pool, wanted, config.seed)
    clicked = spread.filter(F.col("is_click") == 1).select("user_id", "item_id").distinct()
    fresh = drawn.join(clicked, on=["user_id", "item_id"], how="left_anti")
    once = fresh.groupBy("event_id", "item_id").agg(F.min("draw").alias("draw"))
    place = F.row_number().over(Window.partitionBy("event_id").orderBy("draw"))
    chosen = once.withColumn("place", place).filter(F.col("place") <= wanted)
    negatives = positives.drop("item_id").join(chosen, on="event_id", how="inner")
    changed = {
        "event_id": F.col("event_id") + F.col("place"),
        "is_click": F.lit(0).cast("tinyint"),
        "is_sampled": F.lit(True),
    }
    return held(spread.unionByName(negatives.withColumns(changed).select(*spread.columns)))


def _pool(events: DataFrame, items: DataFrame, by: str) -> DataFrame:
    """What a draw can point at: numbered items, or the items of numbered training clicks."""
    if by == "uniform":
        return numbered(items.select("item_id"), ("item_id",), "number")
    clicks = events.filter((F.col("is_click") == 1) & (F.col("split") == "train"))
    return numbered(clicks.select("event_id", "item_id"), ("event_id",), "number").select("item_id", "number")


def _draws(positives: DataFrame, pool: DataFrame, wanted: int, seed: int) -> DataFrame:
    size = pool.count()
    draws = F.explode(F.sequence(F.lit(1), F.lit(2 * wanted + SPARE_DRAWS))).alias("draw")
    numbered_draws = positives.select("event_id", "user_id", draws)
    target = F.pmod(stable_hash(seed, F.lit("negative"), "event_id", "draw"), F.lit(size))
    return numbered_draws.withColumn("number", target).join(pool, on="number", how="inner").drop("number")
