"""The audit's checks of what is counted, listed and dealt out: splits, histories, item vectors and frequencies."""

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from pipeline.source import SplitBy
from spark_jobs.audit_evidence import Evidence, leaks_of, row_numbered, told

JUDGED = ("valid", "test")
"""Splits whose labels a model is judged by."""


def split_leaks(evidence: Evidence) -> DataFrame:
    """Examples that are not the event they name, stand twice, or are judged by a model that trained after them."""
    twice = evidence.rows.groupBy("event_id").agg(F.count(F.lit(1)).alias("times"))
    rows = evidence.limited_rows.join(twice, on="event_id", how="inner").join(_splits_of_user(evidence), "user_id")
    by = evidence.source.labels.split_by
    is_timed, is_by_user = F.lit(by is SplitBy.TIME), F.lit(by is SplitBy.USER)
    is_after_training = (F.col("split") == "test") & (F.col("event_at") <= F.col("last_valid_at"))
    is_in_training = F.col("split").isin(*JUDGED) & (F.col("event_at") <= F.col("last_train_at"))
    found = (
        F.when(~F.col("is_there"), F.lit("interactions hold no such event"))
        .when(~F.col("is_own"), F.lit("user, item, time, label or split are not those of the event in interactions"))
        .when(F.col("times") > 1, F.format_string("the event stands %d times among the examples", "times"))
        .when(is_timed & is_in_training, told("the last training event is of %s, at or after this", "last_train_at"))
        .when(is_timed & is_after_training, told("the last valid event is of %s, at or after this", "last_valid_at"))
        .when(is_by_user & (F.col("num_splits") > 1), F.lit("the user stands in more than one split"))
    )
    known_at = (
        F.when(is_timed & is_in_training, F.col("last_train_at"))
        .when(is_timed & is_after_training, F.col("last_valid_at"))
    )  # fmt: skip
    return leaks_of(rows, "split", found, known_at)


def history_leaks(evidence: Evidence, histories: DataFrame) -> DataFrame:
    """Examples whose history holds an event that is not before them, not the user's, or was never there."""
    numbered = row_numbered(histories, "history_row")
    listed = numbered.select(
        "history_row",
        F.col("user_id").alias("history_user"),
        "snapshot_at",
        F.array_max("event_times").alias("latest_at"),
        (
            (F.size("item_ids") != F.size("event_times")) | (F.size("labels") != F.size("event_times"))
        ).alias("is_ragged"),
    ).join(_invented(numbered, evidence.interactions), on="history_row", how="left")  # fmt: skip
    rows = evidence.rows.filter(F.col("history_row").isNotNull()).join(listed, on="history_row", how="left")
    is_late = F.col("latest_at") >= F.col("event_at")
    found = (
        F.when(F.col("history_user").isNull(), _numbered("history row %d does not exist", "history_row"))
        .when(F.col("history_user") != F.col("user_id"), _numbered("history row %d is another user's", "history_row"))
        .when(is_late, told("the history holds an event of %s, which is not before this", "latest_at"))
        .when(F.col("snapshot_at") > F.col("event_at"), told("the history is of %s, after this", "snapshot_at"))
        .when(F.col("invented_at").isNotNull(), told("the history's event of %s never happened so", "invented_at"))
        .when(F.col("is_ragged"), _numbered("history row %d has lists of different lengths", "history_row"))
    )
    known_at = F.when(is_late, F.col("latest_at")).otherwise(F.coalesce("invented_at", "snapshot_at"))
    return leaks_of(rows, "history", found, known_at)


def item_vector_leaks(evidence: Evidence, item_vectors: DataFrame) -> DataFrame:
    """Examples that read the vector of another item, or of a text that was not known yet."""
    numbered = row_numbered(item_vectors.select("item_id"), "item_vector_row")
    vectors = numbered.select("item_vector_row", F.col("item_id").alias("vector_item"))
    rows = (
        evidence.rows.filter(F.col("item_vector_row").isNotNull())
        .join(vectors, on="item_vector_row", how="left")
        .join(evidence.known_since, on="item_id", how="left")
    )
    number = "item_vector_row"
    found = (
        F.when(F.col("vector_item").isNull(), _numbered("vector row %d does not exist", number))
        .when(F.col("vector_item") != F.col("item_id"), _numbered("vector row %d is another item's", number))
        .when(F.col("known_since_at") > F.col("event_at"), told("the text was known from %s on", "known_since_at"))
    )
    return leaks_of(rows, "item_vector", found, F.col("known_since_at"))


def frequency_leaks(evidence: Evidence, item_stats: DataFrame) -> DataFrame:
    """Examples of items whose counts are not those of the training window."""
    events = evidence.interactions.crossJoin(F.broadcast(evidence.limits))
    is_counted = F.col("split").isin("train", "history") & (F.col("event_at") < F.col("window_ends_at"))
    true = (
        events.filter(is_counted)
        .groupBy("item_id")
        .agg(F.count(F.lit(1)).alias("true_exposures"), F.sum(F.col("is_click").cast("bigint")).alias("true_clicks"))
    )
    counted = item_stats.select("item_id", "exposures", "clicks", "counted_until")
    rows = evidence.limited_rows.join(counted, "item_id", how="left").join(true, "item_id", how="left")
    zeros = rows.fillna(0, subset=["true_exposures", "true_clicks"])
    is_wrong = (F.col("exposures") != F.col("true_exposures")) | (F.col("clicks") != F.col("true_clicks"))
    numbers = ("exposures", "clicks", "true_exposures", "true_clicks")
    found = (
        F.when(F.col("exposures").isNull(), F.lit("item_stats do not know the item"))
        .when(is_wrong, F.format_string("counted %d events and %d clicks; training has %d and %d", *numbers))
        .when(F.col("counted_until") != F.col("window_ends_at"), told("counted until %s", "counted_until"))
        .when(_is_judged_too_early(evidence), told("events are counted until %s, after this", "window_ends_at"))
    )
    return leaks_of(zeros, "frequency", found, F.col("counted_until"))


def _is_judged_too_early(evidence: Evidence) -> Column:
    is_timed = F.lit(evidence.source.labels.split_by is SplitBy.TIME)
    return is_timed & F.col("split").isin(*JUDGED) & (F.col("event_at") < F.col("window_ends_at"))


def _splits_of_user(evidence: Evidence) -> DataFrame:
    return evidence.rows.groupBy("user_id").agg(F.count_distinct("split").alias("num_splits"))


def _invented(numbered: DataFrame, interactions: DataFrame) -> DataFrame:
    """history_row and the time of its latest event that interactions do not know.

    A user's snapshots list the same events again and again: distinct ones are gathered before anything is shuffled, and
    what is not found among the real events is little.
    """
    listed = numbered.select("history_row", "user_id", F.explode(F.arrays_zip("item_ids", "event_times", "labels")))
    events = listed.select(
        "history_row",
        "user_id",
        F.col("col.item_ids").alias("item_id"),
        F.col("col.event_times").alias("event_at"),
        F.col("col.labels").alias("is_click"),
    )
    key = ["user_id", "item_id", "event_at", "is_click"]
    invented = events.select(*key).distinct().join(interactions.select(*key), on=key, how="left_anti")
    placed = events.join(invented, on=key, how="left_semi")
    return placed.groupBy("history_row").agg(F.max("event_at").alias("invented_at"))


def _numbered(sentence: str, number: str) -> Column:
    return F.format_string(sentence, number)
