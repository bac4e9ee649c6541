"""audit: examples behind which a prompt, a vector, a count or a history knows what happened at or after them.

Everything is worked out again from interactions, items and users; what a dataset says of itself (its snapshot, its
availability, its counts) is compared with that and never believed. Heavy frames are shuffled twice: examples meet
interactions by event, and snapshots meet a user's events by user.
"""

from collections.abc import Mapping
from functools import reduce
from typing import Any

from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F

from pipeline import config as configs
from pipeline.errors import ConfigError
from pipeline.source import Source
from spark_jobs import audit_checks, audit_texts
from spark_jobs.audit_evidence import Evidence
from spark_jobs.tables import Made, held
from spark_jobs.times import micros

NAMED = ("event_id", "user_id", "item_id", "event_at", "split")


def make(
    examples: DataFrame,
    interactions: DataFrame,
    histories: DataFrame,
    items: DataFrame,
    users: DataFrame,
    item_stats: DataFrame,
    config: configs.Audit,
    source: Source,
    input_settings: Mapping[str, Mapping[str, Any]],
    prompts: DataFrame | None = None,
    user_vectors: DataFrame | None = None,
    item_vectors: DataFrame | None = None,
) -> Made:
    """One row per example and kind of leak, up to max_named of a kind; details count all of them.

    Args:
        examples: what is audited; of everything else they are told only which row numbers they read.
        interactions: the truth: who did what when, and on which side of the split.
        histories: numbered in the order of its shards, as history_row counts.
        items: titles, and when a text was known.
        users: profiles.
        item_stats: the counts.
        config: of the stage.
        source: whose [labels] and [histories] say what may be known.
        input_settings: what the manifests of the inputs say; of prompts and user_vectors their history_titles.
        prompts: what the teacher read; None, as the next two, where no arm reads vectors.
        user_vectors: numbered in the order of its shards, as user_vector_row counts.
        item_vectors: likewise.
    """
    if config.max_named < 1:
        raise ConfigError(f"[audit] max_named must be 1 or more, not {config.max_named}")
    evidence = Evidence(
        rows=held(_rows(examples, interactions)),
        interactions=interactions,
        items=items,
        users=users,
        limits=_limits(interactions),
        source=source,
    )
    leaks = [
        audit_checks.split_leaks(evidence),
        audit_checks.history_leaks(evidence, histories),
        audit_checks.frequency_leaks(evidence, item_stats),
    ]
    if item_vectors is not None:
        leaks.append(audit_checks.item_vector_leaks(evidence, item_vectors))
    if user_vectors is not None:
        titles = input_settings["user_vectors"]["history_titles"]
        leaks.append(audit_texts.user_vector_leaks(evidence, user_vectors, titles))
    if prompts is not None:
        leaks.append(audit_texts.prompt_leaks(evidence, prompts, input_settings["prompts"]["history_titles"]))
    return _made(held(_once(reduce(DataFrame.unionByName, leaks))), evidence, config.max_named)


def _made(found: DataFrame, evidence: Evidence, max_named: int) -> Made:
    counted = {row["leak"]: row["n"] for row in found.groupBy("leak").agg(F.count(F.lit(1)).alias("n")).collect()}
    place = F.row_number().over(Window.partitionBy("leak").orderBy("event_at", "event_id"))
    named = found.withColumn("place", place).filter(F.col("place") <= max_named).drop("place")
    details = {"leaks": {kind: counted[kind] for kind in sorted(counted)}, "examined": evidence.rows.count()}
    return Made(rows=named, order=("leak", "event_at", "event_id"), details=details)


def _rows(examples: DataFrame, interactions: DataFrame) -> DataFrame:
    """The examples with what interactions say of their events; `is_own` is false where the two differ."""
    told = examples.select(
        "event_id",
        *[F.col(name).alias(f"told_{name}") for name in (*NAMED[1:], "is_click")],
        "item_vector_row",
        "user_vector_row",
        "history_row",
    )
    true = interactions.select(*NAMED, "is_click", F.lit(True).alias("is_there"))
    joined = told.join(true, on="event_id", how="left")
    same = [F.col(name).eqNullSafe(F.col(f"told_{name}")) for name in (*NAMED[1:], "is_click")]
    return joined.select(
        "event_id",
        *[F.coalesce(name, f"told_{name}").alias(name) for name in NAMED[1:]],
        "item_vector_row",
        "user_vector_row",
        "history_row",
        F.coalesce("is_there", F.lit(False)).alias("is_there"),
        reduce(lambda one, other: one & other, same).alias("is_own"),
    )


def _limits(interactions: DataFrame) -> DataFrame:
    """One row: where the training window ends, and the last train and valid events."""
    last = {split: F.max(F.when(F.col("split") == split, F.col("event_at"))) for split in ("train", "valid")}
    return interactions.agg(
        F.min("event_at").alias("log_began_at"),
        last["train"].alias("last_train_at"),
        last["valid"].alias("last_valid_at"),
        F.timestamp_micros(F.max(F.when(F.col("split") == "train", micros("event_at"))) + 1).alias("window_ends_at"),
    )


def _once(leaks: DataFrame) -> DataFrame:
    """An example leaks once in each way, however many reasons there are."""
    rest = F.struct("user_id", "item_id", "event_at", "split", "known_at", "evidence")
    kept = leaks.groupBy("event_id", "leak").agg(F.min_by(rest, "evidence").alias("kept"))
    return kept.select("event_id", "leak", "kept.*")


if __name__ == "__main__":
    from spark_jobs.submit import submit

    submit("audit")
