"""users: everyone who acted, with the profile where the source has one."""

from pyspark.sql import Column, DataFrame, SparkSession, Window
from pyspark.sql import functions as F

from pipeline import config as configs
from pipeline.erased import ErasedList
from pipeline.source import Source, UsersTable
from spark_jobs.erased import parted
from spark_jobs.readers import as_it_stood, attributes, cell, read
from spark_jobs.tables import Made, held


def make(
    spark: SparkSession, interactions: DataFrame, config: configs.Users, source: Source, erased: ErasedList
) -> Made:
    """One row per user of interactions; profiles of people who never acted, or who were erased, are skipped."""
    acted = interactions.select("user_id").distinct()
    if source.users is None:
        return Made(rows=acted.withColumn("attributes", attributes(())), order=("user_id",))
    rows, theirs = parted(read(spark, "users", source.users.files, _wanted(source.users)), source.users.id, erased)
    placed = held(_judged(rows, source.users))
    left_out = theirs.select(cell(source.users.id).alias("user_id"))
    profiles = placed.filter(F.col("reason").isNull()).select("user_id", "attributes", "row_json")
    joined = held(acted.withColumn("has_acted", F.lit(True)).join(profiles, on="user_id", how="full_outer"))
    rows = joined.filter("has_acted").select("user_id", F.coalesce("attributes", attributes(())).alias("attributes"))
    faulty = placed.filter(F.col("reason").isNotNull())
    without_profile = joined.filter(F.col("has_acted") & F.col("row_json").isNull())
    return Made(
        rows=rows,
        order=("user_id",),
        rejected=faulty.select(F.col("row_json").alias("source_row"), "reason"),
        skipped=joined.filter(F.col("has_acted").isNull()).select("user_id").unionByName(left_out),
        read=placed.select("user_id").unionByName(without_profile.select("user_id")).unionByName(left_out),
    )


def _wanted(table: UsersTable) -> list[str]:
    return [table.id, *table.attributes]


def _judged(rows: DataFrame, table: UsersTable) -> DataFrame:
    typed = rows.select(
        "row_order",
        as_it_stood().alias("row_json"),
        "problem",
        cell(table.id).alias("user_id"),
        attributes(table.attributes).alias("attributes"),
    )
    first_of_id = Window.partitionBy("user_id", F.col("problem").isNull()).orderBy("row_order")
    return typed.withColumn("position", F.row_number().over(first_of_id)).withColumn("reason", _reason())


def _reason() -> Column:
    return (
        F.when(F.col("problem").isNotNull(), F.col("problem"))
        .when(F.col("user_id").isNull(), F.lit("no user id"))
        .when(F.col("position") > 1, F.lit("repeated user id"))
    )


if __name__ == "__main__":
    from spark_jobs.submit import submit

    submit("users")
