"""prompts: the sampled items and users that the teacher will read (docs/methods.md).

Users are drawn once each, at one snapshot inside the training window that a stable hash picks, and before the user's
first event of valid or test, so that the teacher reads nothing that a model is judged by. A user's stratum is the band
of the history's length, and longer histories weigh more.
"""

from collections.abc import Mapping

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from pipeline import config as configs
from spark_jobs.focus import second_round
from spark_jobs.near_duplicates import count_read, with_representatives
from spark_jobs.rendered_texts import SAMPLED, with_item_text, with_user_text
from spark_jobs.sampling import Strata, allot, draw
from spark_jobs.session import spark_schema
from spark_jobs.tables import Made, held, stable_hash

MIN_EVENTS = 3
"""A shorter history says too little of anybody."""
BANDS = ((10, "3-9 events"), (30, "10-29 events"), (100, "30-99 events"))
LONGEST_BAND = "100 events or more"


def make(
    items: DataFrame,
    users: DataFrame,
    interactions: DataFrame,
    item_stats: DataFrame,
    histories: DataFrame,
    config: configs.Prompts,
) -> Made:
    """Item rows and user rows, near-duplicates side by side; candidates that were not drawn are skipped."""
    item_candidates = held(_item_candidates(items, item_stats, config))
    user_candidates = held(_user_candidates(histories, interactions, item_stats, config))
    strata = _strata({"item": item_candidates, "user": user_candidates}, config)
    sampled_items = draw(item_candidates, strata["item"], seed=config.seed)
    sampled_users = draw(user_candidates, strata["user"], seed=config.seed)
    sampled = held(
        _item_rows(sampled_items, items).unionByName(_user_rows(sampled_users, histories, items, users, config))
    )
    rows = held(with_representatives(sampled, config.near_duplicate))
    candidates = item_candidates.select("id").unionByName(user_candidates.select("id"))
    drawn = sampled.select(F.col("prompt_id").alias("id"))
    return Made(
        rows=rows,
        order=("representative_id", "prompt_id"),
        skipped=candidates.join(drawn, on="id", how="left_anti"),
        read=candidates,
        details={
            "strata": {level: {"rows": dict(of.rows), "drawn": dict(of.drawn)} for level, of in strata.items()},
            "near_duplicates": count_read(rows),
        },
    )


def _strata(candidates: Mapping[str, DataFrame], config: configs.Prompts) -> dict[str, Strata]:
    """The first round's strata, and where a second one is asked for, its rows on top."""
    wanted = {"item": config.item_rows, "user": config.user_rows}
    strata = {
        level: allot(frame, wanted[level], power=config.stratum_power, min_per_stratum=config.min_per_stratum)
        for level, frame in candidates.items()
    }
    return second_round(strata, config)


def _item_candidates(items: DataFrame, item_stats: DataFrame, config: configs.Prompts) -> DataFrame:
    surprise = F.abs(F.col("ctr_shrunk") - F.col("category_ctr"))
    weight = (1 + F.col("exposures")) ** config.exposure_power * (1 + config.ctr_gain * surprise)
    joined = items.select("item_id", "category").join(item_stats, on="item_id", how="inner")
    return joined.select(
        F.concat(F.lit("item:"), "item_id").alias("id"),
        F.col("item_id").alias("entity_id"),
        F.col("category").alias("stratum"),
        weight.alias("weight"),
    )


def _user_candidates(
    histories: DataFrame, interactions: DataFrame, item_stats: DataFrame, config: configs.Prompts
) -> DataFrame:
    window = item_stats.agg(F.max("counted_until").alias("window_ends_at"))
    judged = interactions.filter(F.col("split").isin("valid", "test"))
    first_judged = judged.groupBy("user_id").agg(F.min("event_at").alias("first_judged_at"))
    known = histories.join(first_judged, on="user_id", how="left").join(F.broadcast(window), how="cross")
    # Where users and not times are divided, or as the source says, a user may be judged inside the training window.
    is_unjudged = F.col("first_judged_at").isNull() | (F.col("snapshot_at") <= F.col("first_judged_at"))
    is_inside = F.col("snapshot_at") < F.col("window_ends_at")
    inside = known.filter(is_inside & is_unjudged & (F.col("num_events") >= MIN_EVENTS))
    pick = stable_hash(config.seed, F.lit("snapshot"), F.col("user_id"), F.unix_micros("snapshot_at"))
    chosen = inside.groupBy("user_id").agg(F.min_by(F.struct("snapshot_at", "num_events"), pick).alias("chosen"))
    seconds = F.unix_seconds("chosen.snapshot_at").cast("string")
    return chosen.select(
        F.concat(F.lit("user:"), "user_id", F.lit("@"), seconds).alias("id"),
        F.col("user_id").alias("entity_id"),
        F.col("chosen.snapshot_at").alias("snapshot_at"),
        _band("chosen.num_events").alias("stratum"),
        ((1 + F.col("chosen.num_events")) ** config.exposure_power).alias("weight"),
    )


def _band(length: str) -> Column:
    band = F.lit(LONGEST_BAND)
    for limit, name in reversed(BANDS):
        band = F.when(F.col(length) < limit, name).otherwise(band)
    return band


def _item_rows(sampled: DataFrame, items: DataFrame) -> DataFrame:
    joined = sampled.join(items.withColumnRenamed("item_id", "entity_id"), on="entity_id", how="inner")
    read = joined.select(
        F.col("id").alias("prompt_id"),
        F.lit("item").alias("level"),
        "entity_id",
        F.lit(None).cast("timestamp").alias("snapshot_at"),
        "stratum",
        "text",
        "attributes",
        "inclusion_probability",
    )
    return read.mapInArrow(with_item_text, spark_schema(SAMPLED))


def _user_rows(
    sampled: DataFrame, histories: DataFrame, items: DataFrame, users: DataFrame, config: configs.Prompts
) -> DataFrame:
    """The sample is small, so that the big tables are joined to it and not the other way round."""
    titles = items.select("item_id", "title")
    shown = sampled.join(
        histories.withColumnRenamed("user_id", "entity_id"), on=["entity_id", "snapshot_at"], how="inner"
    )
    latest = F.arrays_zip(_latest("item_ids", config), _latest("labels", config))
    events = shown.select("id", F.posexplode(latest).alias("place", "event")).select(
        "id", "place", F.col("event")["0"].alias("item_id"), F.col("event")["1"].alias("label")
    )
    named = F.broadcast(events).join(titles, on="item_id", how="inner")
    ordered = F.array_sort(F.collect_list(F.struct("place", "title", "label"))).alias("events")
    read = (
        sampled.join(named.groupBy("id").agg(ordered), on="id", how="inner")
        .join(users.withColumnRenamed("user_id", "entity_id"), on="entity_id", how="inner")
        .select(
            F.col("id").alias("prompt_id"),
            F.lit("user").alias("level"),
            "entity_id",
            "snapshot_at",
            "stratum",
            F.col("events.title").alias("titles"),
            F.col("events.label").alias("labels"),
            "attributes",
            "inclusion_probability",
        )
    )
    return read.mapInArrow(with_user_text, spark_schema(SAMPLED))


def _latest(column: str, config: configs.Prompts) -> Column:
    start = F.greatest(F.size(column) - config.history_titles + 1, F.lit(1))
    return F.slice(column, start, config.history_titles)


if __name__ == "__main__":
    from spark_jobs.submit import submit

    submit("prompts")
