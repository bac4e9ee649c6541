"""The audit's checks of what was read: user vectors and prompts, against texts rendered again from the true events."""

from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F

from pipeline import texts
from spark_jobs.audit_checks import JUDGED
from spark_jobs.audit_evidence import Evidence, leaks_of, row_numbered, told
from spark_jobs.rendered_texts import RENDERED, with_true_text
from spark_jobs.session import spark_schema

SHOWN_TITLE = r"^- (.*?)(?: \(skipped\))?$"


def user_vector_leaks(evidence: Evidence, user_vectors: DataFrame, history_titles: int) -> DataFrame:
    """Examples whose user vector was read at a later time, or from another text than the events before it make.

    Args:
        evidence: the truth and the examples.
        user_vectors: whose content_hash says what was read.
        history_titles: how many titles a text shows, as user_vectors were made.
    """
    numbered = row_numbered(user_vectors.select("user_id", "snapshot_at", "content_hash"), "user_vector_row")
    true = true_texts(evidence, numbered, history_titles)
    true_hash = F.substring(F.sha2("true_text", 256), 1, texts.ID_DIGITS)
    vectors = numbered.join(true, on=["user_id", "snapshot_at"], how="left").select(
        "user_vector_row",
        F.col("user_id").alias("vector_user"),
        "snapshot_at",
        (~true_hash.eqNullSafe(F.col("content_hash"))).alias("is_of_other_text"),
    )
    rows = evidence.rows.filter(F.col("user_vector_row").isNotNull()).join(vectors, "user_vector_row", how="left")
    number = "user_vector_row"
    found = (
        F.when(F.col("vector_user").isNull(), F.format_string("vector row %d does not exist", number))
        .when(F.col("vector_user") != F.col("user_id"), F.format_string("vector row %d is another user's", number))
        .when(F.col("snapshot_at") > F.col("event_at"), told("the vector is of %s, after this", "snapshot_at"))
        .when(
            F.col("is_of_other_text"),
            told("the vector of %s was not read from the events before it", "snapshot_at"),
        )
    )
    known_at = F.when(F.col("snapshot_at") > F.col("event_at"), F.col("snapshot_at"))
    return leaks_of(rows, "user_vector", found, known_at)


def prompt_leaks(evidence: Evidence, prompts: DataFrame, history_titles: int) -> DataFrame:
    """Examples of a user or an item the teacher has read about with events, or a text, of theirs or later.

    Args:
        evidence: the truth and the examples.
        prompts: of both levels.
        history_titles: how many titles a text shows, as prompts were made.
    """
    return _user_prompt_leaks(evidence, prompts, history_titles).unionByName(_item_prompt_leaks(evidence, prompts))


def true_texts(evidence: Evidence, snapshots: DataFrame, history_titles: int) -> DataFrame:
    """The text that the events strictly before each snapshot make, and when the last one it shows happened.

    Args:
        evidence: the truth.
        snapshots: user_id and snapshot_at.
        history_titles: titles a text shows.

    Returns:
        RENDERED: last_judged_at is the last shown event that is a label of valid or test, or past the training window.
    """
    rules = evidence.source.histories
    events = evidence.interactions.crossJoin(F.broadcast(evidence.limits))
    is_judged = F.col("split").isin(*JUDGED) | (F.col("event_at") >= F.col("window_ends_at"))
    known = events.withColumn("judged_at", F.when(is_judged, F.col("event_at")))
    if rules.events == "positive":
        known = known.filter(F.col("is_click") == 1)
    wanted = snapshots.select("user_id", "snapshot_at").distinct()
    before = wanted.join(known, on="user_id", how="inner").filter(F.col("event_at") < F.col("snapshot_at"))
    latest_first = Window.partitionBy("user_id", "snapshot_at").orderBy(F.desc("event_at"), F.desc("event_id"))
    placed = before.withColumn("place", F.row_number().over(latest_first))
    shown = placed.filter(F.col("place") <= min(history_titles, rules.max_length))
    named = shown.join(evidence.items.select("item_id", "title"), on="item_id", how="left")
    listed = named.groupBy("user_id", "snapshot_at").agg(
        F.array_sort(F.collect_list(F.struct((-F.col("place")).alias("order"), "title", "is_click"))).alias("events"),
        F.max("event_at").alias("last_shown_at"),
        F.max("judged_at").alias("last_judged_at"),
    )
    joined = wanted.join(listed, on=["user_id", "snapshot_at"], how="left").join(
        evidence.users, on="user_id", how="left"
    )
    columns = ("user_id", "snapshot_at", "last_shown_at", "last_judged_at", "attributes")
    read = joined.select(*columns, F.col("events.title").alias("titles"), F.col("events.is_click").alias("labels"))
    return read.mapInArrow(with_true_text, spark_schema(RENDERED))


def _user_prompt_leaks(evidence: Evidence, prompts: DataFrame, history_titles: int) -> DataFrame:
    judged = _judged_prompts(evidence, prompts, history_titles).join(
        _latest_named(evidence, prompts), on="prompt_id", how="left"
    )
    known_at = F.when(F.col("is_other_text"), F.col("named_at")).otherwise(
        F.coalesce("last_judged_at", F.when(F.col("is_late"), F.col("snapshot_at")))
    )
    found = (
        F.when(F.col("is_other_text"), told("the prompt of %s does not show the events before it", "snapshot_at"))
        .when(
            F.col("last_judged_at").isNotNull(), told("the prompt shows an event of %s to be judged", "last_judged_at")
        )
        .when(F.col("is_late"), told("the prompt is of %s, past the training window", "snapshot_at"))
    )
    leaking = judged.select("user_id", found.alias("said"), known_at.alias("until_at"))
    rows = evidence.rows.join(leaking.filter(F.col("said").isNotNull()), on="user_id", how="inner")
    is_touched = F.col("until_at").isNull() | (F.col("event_at") <= F.col("until_at"))
    return leaks_of(rows.filter(is_touched), "prompt", F.col("said"), F.col("until_at"))


def _judged_prompts(evidence: Evidence, prompts: DataFrame, history_titles: int) -> DataFrame:
    """User prompts beside the true text; what the teacher read is that of the representative."""
    of_users = prompts.filter(F.col("level") == "user").withColumnRenamed("entity_id", "user_id")
    true = true_texts(evidence, of_users, history_titles)
    judged = of_users.join(true, on=["user_id", "snapshot_at"], how="left").crossJoin(F.broadcast(evidence.limits))
    representatives = judged.select(
        F.col("prompt_id").alias("representative_id"), F.col("true_text").alias("representative_text")
    )
    joined = judged.join(representatives, on="representative_id", how="left")
    is_same = F.col("text").eqNullSafe(F.col("true_text")) & F.col("teacher_text").eqNullSafe(
        F.col("representative_text")
    )
    return joined.select(
        "prompt_id",
        "user_id",
        "snapshot_at",
        "last_judged_at",
        (~is_same).alias("is_other_text"),
        (F.col("snapshot_at") >= F.col("window_ends_at")).alias("is_late"),
    )


def _latest_named(evidence: Evidence, prompts: DataFrame) -> DataFrame:
    """prompt_id and named_at: the last event from the snapshot on with an item whose title the prompt shows."""
    of_users = prompts.filter(F.col("level") == "user").withColumnRenamed("entity_id", "user_id")
    lines = F.split(F.concat_ws("\n", "text", "teacher_text"), "\n")
    shown = of_users.select("prompt_id", "user_id", "snapshot_at", F.explode(F.array_distinct(lines)).alias("line"))
    title = F.regexp_extract("line", SHOWN_TITLE, 1).alias("title")
    titled = shown.filter(F.col("line").startswith("- ")).select("prompt_id", "user_id", "snapshot_at", title)
    found = (
        titled.join(evidence.items.select("item_id", "title"), on="title", how="inner")
        .join(evidence.interactions.select("user_id", "item_id", "event_at"), on=["user_id", "item_id"], how="inner")
        .filter(F.col("event_at") >= F.col("snapshot_at"))
    )
    return found.groupBy("prompt_id").agg(F.max("event_at").alias("named_at"))


def _item_prompt_leaks(evidence: Evidence, prompts: DataFrame) -> DataFrame:
    """An item's text has one time only: from when on it was known."""
    drawn = prompts.filter(F.col("level") == "item").select(F.col("entity_id").alias("item_id"))
    since = drawn.join(evidence.known_since, on="item_id", how="inner")
    rows = evidence.rows.join(F.broadcast(since), on="item_id", how="inner")
    is_early = F.col("event_at") < F.col("known_since_at")
    found = F.when(is_early, told("the teacher read a text that was known from %s on", "known_since_at"))
    return leaks_of(rows, "prompt", found, F.col("known_since_at"))
