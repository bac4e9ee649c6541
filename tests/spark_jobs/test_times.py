"""Times written as numbers: whole ones are read by a shorter way, and mean the same as by the exact one."""

import random
from decimal import Decimal

import pytest
from pyspark.sql import functions as F

from spark_jobs.times import MILLISECONDS_FROM, USUAL_UP_TO, parse_time

MOST_MICROS = 2**63 - 1


def micros_of(text: str) -> int | None:
    """In exact arithmetic; null where a bigint does not hold it."""
    number = Decimal(text)
    seconds = number / 1000 if abs(number) >= MILLISECONDS_FROM else number
    micros = int(seconds * 1_000_000)
    return micros if abs(micros) <= MOST_MICROS else None


@pytest.mark.spark
def test_numbers_mean_what_exact_arithmetic_says(spark):
    dice = random.Random(7)
    edges = [0, MILLISECONDS_FROM, USUAL_UP_TO, 10**18, 2**63]
    wholes = {sign * (edge + step) for edge in edges for step in (-1, 0, 1) for sign in (-1, 1)}
    wholes |= {dice.randrange(-(10**digits), 10**digits) for digits in range(1, 20) for _ in range(20)}
    fractions = {f"{whole}.{dice.randrange(1000):03d}" for whole in list(wholes)[:200]}
    texts = sorted({*map(str, wholes), *fractions, "007", "+5", "-0"})
    frame = spark.createDataFrame([(text,) for text in texts], "text string")
    read = frame.select("text", F.unix_micros(parse_time(F.col("text"))).alias("micros")).collect()
    assert {row["text"]: row["micros"] for row in read} == {text: micros_of(text) for text in texts}


@pytest.mark.spark
def test_what_is_no_time_is_null(spark):
    texts = ["", "-", "noon", "12:30", "1_000", "0x10", "nan", "inf", "1700000000L", "9" * 60, "2024-13"]
    frame = spark.createDataFrame([(text,) for text in texts], "text string")
    assert frame.filter(parse_time(F.col("text")).isNotNull()).collect() == []
