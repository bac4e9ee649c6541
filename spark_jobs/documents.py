"""Rows of JSONL, JSON and Parquet files, every value as text; nested values as JSON."""

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import ArrayType, MapType, StructType

from pipeline.errors import SourceError
from spark_jobs.entries import Entry, as_rows, as_uri, lines, moved, row_order
from spark_jobs.tables import held

NOT_AN_OBJECT = "not a JSON object"
_TEXTS = "map<string,string>"


def read_jsonl(spark: SparkSession, entry: Entry) -> DataFrame:
    """One JSON object a line; blank lines are no rows."""
    frame = lines(spark, entry.all_files()).filter(F.trim("line") != "")
    return _objects(entry, frame)


def read_json(spark: SparkSession, entry: Entry) -> DataFrame:
    """A file that is one array of objects, or one object of objects whose keys become the column `key`.

    Raises:
        SourceError: a file is neither.
    """
    whole = lines(spark, entry.all_files(), whole=True)
    is_array = F.ltrim("line").startswith("[")
    elements = F.transform(
        F.from_json("line", "array<string>"), lambda value: F.struct(F.lit(None).cast("string"), value)
    )
    members = F.map_entries(F.from_json("line", _TEXTS))
    pair = "array<struct<key:string,value:string>>"
    parsed = held(whole.withColumn("pairs", F.when(is_array, elements.cast(pair)).otherwise(members.cast(pair))))
    broken = parsed.filter(F.col("pairs").isNull() | F.col("problem").isNotNull()).select("row_order.file").head()
    if broken is not None:
        name = broken["file"].rsplit("/", 1)[-1]
        raise SourceError(
            f"[{entry.label}] {name} is not valid JSON; an array of objects, or one object of objects, was wanted"
        )
    rows = parsed.select("row_order", "problem", F.posexplode("pairs").alias("position", "pair")).select(
        moved("row", F.col("position").cast("bigint")).alias("row_order"),
        F.col("pair.value").alias("line"),
        F.col("pair.key").alias("key"),
        "problem",
    )
    return _objects(entry, rows)


def read_parquet(spark: SparkSession, entry: Entry) -> DataFrame:
    """The rows of Parquet files; times as ISO 8601, lists and structs as JSON."""
    frame = spark.read.option("recursiveFileLookup", True).parquet(*[as_uri(path) for path in entry.all_files()])
    entry.check_columns(frame.columns)
    texts = [_as_text(frame, name).alias(name) for name in frame.columns]
    return frame.select(row_order(), F.struct(*texts).alias("cells")).select(
        "row_order",
        "cells",
        F.lit(None).cast("string").alias("row_json"),
        F.lit(None).cast("string").alias("problem"),
        F.lit(None).cast("string").alias("given_split"),
    )


def _objects(entry: Entry, frame: DataFrame) -> DataFrame:
    """Rows whose `line` is one JSON object; a column `key`, where there is one, is added to it."""
    parsed = frame.withColumn("cells", F.from_json("line", _TEXTS))
    if "key" in frame.columns:
        named = F.map_filter(F.create_map(F.lit("key"), F.col("key")), lambda _, value: value.isNotNull())
        parsed = parsed.withColumn("cells", F.map_concat(named, "cells"))
    _check_keys(entry, parsed)
    problem = F.coalesce("problem", F.when(F.col("cells").isNull(), F.lit(NOT_AN_OBJECT)))
    return as_rows(parsed.withColumn("problem", problem), F.col("cells"))


def _check_keys(entry: Entry, parsed: DataFrame) -> None:
    """Objects have no header: a column is missing where not one row has the key."""
    keys = parsed.filter(F.col("cells").isNotNull()).select(F.explode(F.map_keys("cells")).alias("key"))
    # No more than so many keys come to the driver: of an object by ids each is another one.
    found = [row["key"] for row in keys.limit(20_000).distinct().orderBy("key").collect()]
    if not set(entry.wanted) <= set(found):
        wanted = keys.filter(F.col("key").isin(*entry.wanted)).distinct().collect()
        found = sorted({*found, *(row["key"] for row in wanted)})
    entry.check_columns(found)


def _as_text(frame: DataFrame, name: str) -> Column:
    column = F.col("`" + name.replace("`", "``") + "`")
    if isinstance(frame.schema[name].dataType, ArrayType | MapType | StructType):
        return F.to_json(column)
    return column.cast("string")
