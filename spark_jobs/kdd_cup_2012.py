"""KDD Cup 2012 Track 2 (search ads)."""

from pyspark.sql import DataFrame, SparkSession

from spark_jobs.entries import Entry


def read(spark: SparkSession, entry: Entry) -> DataFrame:
    """The table."""
    raise NotImplementedError
