"""MIND (Microsoft News, Wu et al. 2020) as published: train/ and dev/, each with behaviors.tsv and news.tsv.

Both are tab-separated without header and without quoting. One row of behaviors.tsv is an impression: who, when, the
news clicked before, and the news shown with `-1` (clicked) or `-0` (not) behind each id. dev is the test split, for the
published test split has no labels.
"""

from pathlib import Path

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from pipeline.errors import SourceError
from spark_jobs.entries import Entry, as_rows, exploded, fields, lines

NEWS = ("news_id", "category", "subcategory", "title", "abstract", "url", "title_entities", "abstract_entities")
BEHAVIORS = ("impression_id", "user_id", "time", "history", "impressions")
EVENTS = ("impression_id", "user_id", "time", "history", "news_id", "label", "split")
SPLITS = {"train": "train", "dev": "test"}
TIME_FORMAT = "M/d/yyyy h:mm:ss a"
SHOWN = r"^(.*)-([01])$"


def read(spark: SparkSession, entry: Entry) -> DataFrame:
    """The rows of [items] (news; a piece of news may stand in both splits) or of [events] (one per news shown).

    Raises:
        SourceError: a file of the format is missing, or a table the format does not have.
    """
    if entry.label == "items":
        entry.check_columns(NEWS)
        found = fields(lines(spark, _files(entry, "news.tsv").values()), NEWS)
        return as_rows(found, F.col("cells"))
    if entry.label == "events":
        entry.check_columns(EVENTS)
        parts = [_shown(spark, entry, split) for split in SPLITS]
        return parts[0].unionByName(parts[1])
    raise SourceError(f"[{entry.label}] the format mind has no such table; it has news [items] and behaviors [events]")


def _files(entry: Entry, name: str) -> dict[str, Path]:
    paths = {split: entry.path / split / name for split in SPLITS}
    for split, path in paths.items():
        if not path.is_file():
            raise SourceError(
                f"[{entry.label}] {entry.path.name} has no {split}/{name}; unpack MIND so that the folder holds"
                " train/ and dev/, each with behaviors.tsv and news.tsv"
            )
    return paths


def _shown(spark: SparkSession, entry: Entry, split: str) -> DataFrame:
    rows = fields(lines(spark, [_files(entry, "behaviors.tsv")[split]]), BEHAVIORS)
    shown = exploded(rows, F.split(F.trim("cells.impressions"), r"\s+"))
    # Read by its own pattern and handed on in the ISO form that every source's times are parsed from.
    at = F.try_to_timestamp(F.col("cells.time"), F.lit(TIME_FORMAT)).cast("string")
    label = F.regexp_extract("part", SHOWN, 2)
    cells = F.struct(
        F.col("cells.impression_id").alias("impression_id"),
        F.col("cells.user_id").alias("user_id"),
        F.coalesce(at, F.col("cells.time")).alias("time"),
        F.col("cells.history").alias("history"),
        F.when(label == "", F.col("part")).otherwise(F.regexp_extract("part", SHOWN, 1)).alias("news_id"),
        label.alias("label"),
        F.lit(SPLITS[split]).alias("split"),
    )
    return as_rows(shown.withColumn("line", F.coalesce(F.to_json(cells), "line")), cells)
