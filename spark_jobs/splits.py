"""Which label is train, valid or test, and which events only feed histories."""

from collections.abc import Sequence

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from pipeline.errors import SourceError
from pipeline.source import Source, SplitBy
from spark_jobs.tables import held, stable_uniform
from spark_jobs.times import micros

BUCKET_MICROS = 3_600_000_000


def assign_splits(events: DataFrame, source: Source, seed: int = 0) -> DataFrame:
    """The events with `split`.

    Labels of users with fewer than min_history earlier events become history first; what is left is divided.

    Raises:
        SourceError: train, valid or test would be empty.
    """
    labels = source.labels
    split = F.when(F.col("given_split") == "history", F.lit("history"))
    if labels.min_history:
        split = split.when(_events_before(source) < labels.min_history, F.lit("history"))
    kept = events.withColumn("split", split.otherwise(F.col("given_split")))
    if labels.min_history:
        kept = held(kept)
    divided = {SplitBy.TIME: _by_time, SplitBy.USER: _by_user, SplitBy.GIVEN: _as_given}[labels.split_by]
    result = divided(kept, labels.fractions, seed)
    _check_none_is_empty(result, source)
    return result


def time_cuts(times: DataFrame, shares: Sequence[float]) -> list[int]:
    """The exact quantiles of event_at: for each share the microsecond at which the row of that rank happened.

    Rows are counted per hour first, then within the hour of the quantile, so that only small aggregates reach the
    driver and the answer is the same however the rows are partitioned.
    """
    bucket = F.floor(micros("event_at") / F.lit(BUCKET_MICROS)).cast("bigint").alias("bucket")
    counts = sorted((row["bucket"], row["count"]) for row in times.groupBy(bucket).count().collect())
    total = sum(count for _, count in counts)
    if not total:
        return [0 for _ in shares]
    places = [_place(counts, min(int(share * total), total - 1)) for share in shares]
    inside = times.withColumn("bucket", bucket).filter(F.col("bucket").isin([place for place, _ in places]))
    exact = inside.groupBy("bucket", micros("event_at").alias("at")).count().collect()
    times_at = {
        place: sorted((row["at"], row["count"]) for row in exact if row["bucket"] == place) for place, _ in places
    }
    return [_place(times_at[bucket], rank)[0] for bucket, rank in places]


def _place(counts: Sequence[tuple[int, int]], rank: int) -> tuple[int, int]:
    """The bucket that holds the row of a rank, and the row's rank inside it."""
    for bucket, count in counts:
        if rank < count:
            return bucket, rank
        rank -= count
    raise AssertionError("a rank lies beyond the rows that were counted")


def _events_before(source: Source) -> Column:
    frame = Window.partitionBy("user_id").orderBy(micros("event_at")).rangeBetween(Window.unboundedPreceding, -1)
    counted = F.col("is_click").cast("bigint") if source.histories.events == "positive" else F.lit(1)
    return F.coalesce(F.sum(counted).over(frame), F.lit(0))


def _by_time(kept: DataFrame, fractions: tuple[float, float, float], _: int) -> DataFrame:
    """All events of one moment fall on the same side of a cut."""
    labels = kept.filter(F.col("split").isNull())
    valid_from, test_from = time_cuts(labels, (fractions[0], fractions[0] + fractions[1]))
    at = micros("event_at")
    part = F.when(at < valid_from, F.lit("train")).when(at < test_from, F.lit("valid")).otherwise(F.lit("test"))
    return kept.withColumn("split", F.coalesce("split", part))


def _by_user(kept: DataFrame, fractions: tuple[float, float, float], seed: int) -> DataFrame:
    place = stable_uniform(seed, F.lit("split"), F.col("user_id"))
    train, valid, _ = fractions
    part = F.when(place < train, F.lit("train")).when(place < train + valid, F.lit("valid")).otherwise(F.lit("test"))
    return kept.withColumn("split", F.coalesce("split", part))


def _as_given(kept: DataFrame, fractions: tuple[float, float, float], _: int) -> DataFrame:
    """A log without valid rows lends it the last part of train, in the proportion of the fractions."""
    if not kept.filter(F.col("split") == "valid").isEmpty() or kept.filter(F.col("split") == "train").isEmpty():
        return kept
    share = fractions[0] / max(fractions[0] + fractions[1], 1e-9)
    (valid_from,) = time_cuts(kept.filter(F.col("split") == "train"), (share,))
    is_late = (F.col("split") == "train") & (micros("event_at") >= valid_from)
    return kept.withColumn("split", F.when(is_late, F.lit("valid")).otherwise(F.col("split")))


def _check_none_is_empty(result: DataFrame, source: Source) -> None:
    counts = {row["split"]: row["count"] for row in result.groupBy("split").count().collect()}
    empty = [name for name in ("train", "valid", "test") if not counts.get(name)]
    if not counts or not empty:
        return
    told = ", ".join(f"{counts[name]:,} {name}" for name in sorted(counts))
    shortest = source.labels.min_history
    lower = f", or lower min_history = {shortest}" if shortest else ""
    raise SourceError(
        f'{source.name}: [labels] split by = "{source.labels.split_by}" leaves no row for {" and ".join(empty)} (found'
        f" {told}); add events, give each split a share in fractions, or split otherwise{lower}"
    )
