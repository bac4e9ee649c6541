"""item_stats: exposures, clicks and ranks per item, counted on the training window only.

The training window ends with the last event of the split train. Events of the split history count where they happened
inside it: they are what was known of the item before the first label, and their time bounds them as it bounds the rest.
"""

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from pipeline import config as configs
from spark_jobs.tables import Made, held, numbered
from spark_jobs.times import micros


def make(items: DataFrame, interactions: DataFrame, config: configs.ItemStats) -> Made:
    """One row for every item, also for those nobody has seen yet."""
    log = interactions.agg(
        F.min("event_at").alias("log_began_at"),
        F.timestamp_micros(F.max(F.when(F.col("split") == "train", micros("event_at"))) + 1).alias("counted_until"),
    )
    counts = _counts(interactions.crossJoin(F.broadcast(log)))
    counted = held(items.join(counts, on="item_id", how="left").fillna(0, subset=["exposures", "clicks"]))
    shrunk = _shrunk(counted, config.prior_exposures).crossJoin(F.broadcast(log))
    ranked = numbered(shrunk.withColumn("rarity", -F.col("exposures")), ("rarity", "item_id"), "position")
    rows = ranked.select(
        "item_id",
        "exposures",
        "clicks",
        "ctr_shrunk",
        "category_ctr",
        (F.col("position") + 1).alias("exposure_rank"),
        F.coalesce("available_at", "began_at", "log_began_at").alias("first_seen_at"),
        "counted_until",
    )
    return Made(rows=rows, order=("item_id",))


def in_training_window() -> Column:
    """Whether an event may be counted, given the column counted_until."""
    is_earlier = F.col("event_at") < F.col("counted_until")
    return F.col("split").isin("train", "history") & is_earlier


def _counts(interactions: DataFrame) -> DataFrame:
    """Per item; Spark adds up within each partition first, so that a popular item is no heavy task."""
    is_counted = in_training_window()
    return interactions.groupBy("item_id").agg(
        F.count(F.when(is_counted, True)).alias("exposures"),
        F.coalesce(F.sum(F.when(is_counted, F.col("is_click").cast("bigint"))), F.lit(0)).alias("clicks"),
        F.min("event_at").alias("began_at"),
    )


def _shrunk(counted: DataFrame, prior: float) -> DataFrame:
    total = counted.agg((F.sum("clicks") / F.greatest(F.sum("exposures"), F.lit(1))).alias("log_ctr"))
    rates = counted.groupBy("category").agg(
        F.try_divide(F.sum("clicks"), F.sum("exposures")).alias("own_ctr"),
    )
    category_ctr = F.coalesce("own_ctr", "log_ctr")
    joined = counted.join(rates, on="category", how="left").crossJoin(F.broadcast(total))
    mass = F.col("exposures") + F.lit(prior)
    shrunk = F.when(mass > 0, (F.col("clicks") + F.lit(prior) * category_ctr) / mass).otherwise(category_ctr)
    return joined.withColumn("category_ctr", category_ctr).withColumn("ctr_shrunk", shrunk)


if __name__ == "__main__":
    from spark_jobs.submit import submit

    submit("item_stats")
