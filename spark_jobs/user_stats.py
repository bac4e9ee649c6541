"""user_stats: events and clicks per user, counted on the training window only, as item_stats counts items."""

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from pipeline import config as configs
from spark_jobs.item_stats import in_training_window
from spark_jobs.tables import Made
from spark_jobs.times import micros


def make(users: DataFrame, interactions: DataFrame, config: configs.UserStats) -> Made:
    """One row for every user, also for those who came after the training window."""
    window = interactions.agg(
        F.timestamp_micros(F.max(F.when(F.col("split") == "train", micros("event_at"))) + 1).alias("counted_until"),
    )
    counts = _counts(interactions.crossJoin(F.broadcast(window)))
    counted = users.select("user_id").join(counts, on="user_id", how="left").fillna(0, subset=["exposures", "clicks"])
    total = counts.agg(F.try_divide(F.sum("clicks"), F.sum("exposures")).alias("log_ctr"))
    bounded = counted.crossJoin(F.broadcast(total)).crossJoin(F.broadcast(window))
    mass = F.col("exposures") + F.lit(config.prior_exposures)
    log_ctr = F.coalesce("log_ctr", F.lit(0.0))
    shrunk = F.when(mass > 0, (F.col("clicks") + F.lit(config.prior_exposures) * log_ctr) / mass).otherwise(log_ctr)
    rows = bounded.withColumn("ctr_shrunk", shrunk).select(
        "user_id", "exposures", "clicks", "ctr_shrunk", "first_event_at", "last_event_at", "counted_until"
    )
    return Made(rows=rows, order=("user_id",))


def _counts(interactions: DataFrame) -> DataFrame:
    """Per user; Spark adds up within each partition first, so that a busy user is no heavy task."""
    is_counted = in_training_window()
    return interactions.groupBy("user_id").agg(
        F.count(F.when(is_counted, True)).alias("exposures"),
        F.coalesce(F.sum(F.when(is_counted, F.col("is_click").cast("bigint"))), F.lit(0)).alias("clicks"),
        F.min("event_at").alias("first_event_at"),
        F.max(F.when(is_counted, F.col("event_at"))).alias("last_event_at"),
    )


if __name__ == "__main__":
    from spark_jobs.submit import submit

    submit("user_stats")
