"""interactions: labelled events in time order, split into train, valid and test, from the source's [events]."""

from functools import reduce

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from pipeline import config as configs
from pipeline.erased import ErasedList
from pipeline.source import EventsTable, Source
from spark_jobs.erased import parted
from spark_jobs.events import is_later, judge
from spark_jobs.negatives import add_negatives
from spark_jobs.readers import read
from spark_jobs.splits import assign_splits
from spark_jobs.tables import Made, held, numbered

IDS_PER_LIST = r"[^\s,;|\[\]'\"]+"
TIME_ORDER = ("event_at", "row_order", "position")


def make(
    spark: SparkSession, items: DataFrame, config: configs.Interactions, source: Source, erased: ErasedList
) -> Made:
    """Every readable event, items met before the log where a column lists them, and sampled negatives by setting.

    Rows of people who were erased are skipped, and nothing of them is kept. So are rows after the last day, faulty ones
    too: they are another day's.
    """
    table = source.events
    rows, theirs = parted(read(spark, "events", table.files, _wanted(table)), table.user, erased)
    if not table.time:
        rows = numbered(rows, ("row_order",), "row_number")
    known = items.select("item_id", F.lit(True).alias("is_known"))
    judged = held(judge(rows, known, config, source))
    later = judged.filter(is_later(config))
    placed = judged.filter(~is_later(config))
    accepted = placed.filter(F.col("reason").isNull()).drop("reason")
    faulty = placed.filter(F.col("reason").isNotNull()).select(F.col("row_json").alias("source_row"), "reason")
    read_rows = judged.select("row_order").unionByName(theirs.select("row_order"))
    if table.history:
        listed = held(_listed_items(accepted).join(known, on="item_id", how="left"))
        unknown = listed.filter(F.col("is_known").isNull())
        faulty = faulty.unionByName(
            unknown.select(
                F.to_json(F.struct("user_id", "item_id")).alias("source_row"),
                F.lit("history names an unknown item").alias("reason"),
            )
        )
        read_rows = read_rows.unionByName(listed.select("row_order"))
        accepted = accepted.unionByName(listed.filter("is_known").select(*accepted.columns))
    ordered = numbered(accepted.drop("history", "row_json"), TIME_ORDER, "event_id")
    labelled = assign_splits(ordered, source, config.seed)
    complete = add_negatives(labelled, items, config, source.labels)
    sampled = complete.filter("is_sampled").select("row_order")
    return Made(
        rows=complete,
        order=("event_id",),
        # As they were numbered, unless rows of one user or of one positive were brought together since.
        is_placed=source.labels.min_history == 0 and source.labels.negatives_per_positive == 0,
        rejected=faulty,
        skipped=_skipped(later if config.last_day else None, theirs if erased.digests else None),
        read=read_rows.unionByName(sampled),
    )


def _skipped(*parts: DataFrame | None) -> DataFrame | None:
    rows = [part.select("row_order") for part in parts if part is not None]
    return reduce(DataFrame.unionByName, rows) if rows else None


def _wanted(table: EventsTable) -> list[str]:
    optional = (table.time, table.label.column, table.split, table.history)
    return [table.user, table.item, *filter(None, optional), *table.context, *table.text_context]


def _listed_items(accepted: DataFrame) -> DataFrame:
    """The items that each user's first row lists, as clicks one second before it.

    Their own times are unknown; one time for all of a user's keeps them in order (by position) and makes no snapshot
    between them.
    """
    first = accepted.groupBy("user_id").agg(F.min_by(F.struct("*"), F.struct("event_at", "row_order")).alias("first"))
    texts = F.from_json("history", "array<string>")
    words = F.regexp_extract_all("history", F.lit(IDS_PER_LIST), F.lit(0))
    exploded = first.select("first.*").select("*", F.posexplode(F.coalesce(texts, words)).alias("place", "listed"))
    before = F.greatest(F.col("event_at") - F.expr("INTERVAL 1 SECOND"), F.timestamp_seconds(F.lit(0)))
    changed = {
        "item_id": F.trim("listed"),
        "event_at": before,
        "position": F.col("place") - 1_000_000,
        "is_click": F.lit(1).cast("tinyint"),
        "given_split": F.lit("history"),
        "context": F.map_from_entries(F.array().cast("array<struct<key:string,value:string>>")),
    }
    return exploded.withColumns(changed).select(*accepted.columns)


if __name__ == "__main__":
    from spark_jobs.submit import submit

    submit("interactions")
