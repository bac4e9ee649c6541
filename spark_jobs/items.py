"""items: the catalogue, typed and validated, from the source's [items]."""

from pyspark.sql import Column, DataFrame, SparkSession, Window
from pyspark.sql import functions as F

from pipeline import config as configs
from pipeline.source import ItemsTable, Source
from spark_jobs.readers import as_it_stood, attributes, cell, read
from spark_jobs.tables import Made, held
from spark_jobs.times import parse_time

NO_CATEGORY = "unknown"


def make(spark: SparkSession, config: configs.Items, source: Source) -> Made:
    """One row per item; of a repeated id the first row counts, the later ones are rejected or, by setting, skipped."""
    table = source.items
    wanted = [table.id, *table.text, *table.attributes, *filter(None, (table.category, table.time))]
    typed = _typed(read(spark, "items", table.files, wanted), table)
    judged = typed.withColumn("reason", _reason(config))
    first_of_id = Window.partitionBy("item_id", F.col("reason").isNull()).orderBy("row_order")
    placed = held(judged.withColumn("is_repeat", F.col("reason").isNull() & (F.row_number().over(first_of_id) > 1)))
    faulty = placed.filter(F.col("reason").isNotNull())
    repeats = placed.filter("is_repeat")
    if not table.deduplicate:
        faulty = faulty.unionByName(repeats.withColumn("reason", F.lit("repeated item id")))
    return Made(
        rows=placed.filter(F.col("reason").isNull() & ~F.col("is_repeat")),
        order=("item_id",),
        rejected=faulty.select(F.col("row_json").alias("source_row"), "reason"),
        skipped=repeats if table.deduplicate else None,
        read=placed,
    )


def _typed(rows: DataFrame, table: ItemsTable) -> DataFrame:
    texts = [cell(name) for name in table.text]
    available_at = parse_time(cell(table.time)) if table.time else F.lit(None).cast("timestamp")
    return rows.select(
        "row_order",
        as_it_stood().alias("row_json"),
        "problem",
        cell(table.id).alias("item_id"),
        F.coalesce(texts[0], F.lit("")).alias("title"),
        F.concat_ws("\n", *texts).alias("text"),
        _category(table).alias("category"),
        attributes(table.attributes).alias("attributes"),
        available_at.alias("available_at"),
        (cell(table.time).isNotNull() & available_at.isNull() if table.time else F.lit(False)).alias("has_bad_time"),
    )


def _category(table: ItemsTable) -> Column:
    if not table.category:
        return F.lit(NO_CATEGORY)
    category = cell(table.category)
    if table.category_separator:
        category = F.trim(F.split_part(category, F.lit(table.category_separator), F.lit(1)))
    return F.coalesce(F.when(category != "", category), F.lit(NO_CATEGORY))


def _reason(config: configs.Items) -> Column:
    return (
        F.when(F.col("problem").isNotNull(), F.col("problem"))
        .when(F.col("item_id").isNull(), F.lit("no item id"))
        .when(F.col("title") == "", F.lit("no text"))
        .when(F.octet_length("text") > config.max_text_bytes, F.lit(f"text longer than {config.max_text_bytes} bytes"))
        .when(F.col("has_bad_time"), F.lit("time cannot be parsed"))
    )


if __name__ == "__main__":
    from spark_jobs.submit import submit

    submit("items")
