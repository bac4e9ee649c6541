"""MIND."""

from pyspark.sql import DataFrame, SparkSession

from spark_jobs.entries import Entry


def read(spark: SparkSession, entry: Entry) -> DataFrame:
    """The table."""
    raise NotImplementedError
