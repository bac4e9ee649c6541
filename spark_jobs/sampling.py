"""A stratified, importance-weighted sample without replacement, with the inclusion probability of each row.

Stratum c of N_c rows gets n_c = max(n_min, n·N_c^a / Σ N^a) rows, rounded, and at most N_c. Inside a stratum a row of
weight w gets the key E/w with E = −ln u, u = hash(seed, id), and the n_c smallest keys are taken: the order of u^(1/w),
largest first (Efraimidis and Spirakis 2006). A row is in the sample when its key is below the threshold that lets n_c
rows pass, so that π = 1 − exp(−λw), with λ such that Σ π = n_c (Rosén 1997); exact for n_c = N_c and for equal weights,
elsewhere off by a term that vanishes with n_c.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from spark_jobs.tables import stable_uniform

OTHER = "other"
NEWTON_STEPS = 40
PARTS = 64


@dataclass(frozen=True, kw_only=True)
class Strata:
    """How many rows each stratum has and how many of them are drawn."""

    of_category: Mapping[str, str]
    """Category → stratum, of the largest categories; those that half the sample has no room for are in `other`."""
    rows: Mapping[str, int]
    """Stratum → N_c."""
    drawn: Mapping[str, int]
    """Stratum → n_c."""


def allot(candidates: DataFrame, num_rows: int, *, power: float, min_per_stratum: int) -> Strata:
    """The strata of the candidates and the rows each one gets.

    Args:
        candidates: with `stratum`, the category.
        num_rows: n, the size of the whole sample.
        power: a, between 0 (strata count the same) and 1 (in proportion to their rows).
        min_per_stratum: n_min.
    """
    room = max(1, num_rows // (2 * max(1, min_per_stratum)))
    counted = candidates.groupBy("stratum").count()
    # Where every item is a category of its own, only as many as are drawn come to the driver.
    largest = counted.orderBy(F.desc("count"), "stratum").limit(room).collect()
    rows = {row["stratum"]: row["count"] for row in largest}
    of_category = {name: name for name in rows}
    others = candidates.count() - sum(rows.values())
    if others:
        rows[OTHER] = rows.get(OTHER, 0) + others
    scale = num_rows / sum(total**power for total in rows.values()) if rows else 0.0
    drawn = {name: min(total, max(min_per_stratum, round(scale * total**power))) for name, total in rows.items()}
    return Strata(of_category=of_category, rows=rows, drawn=drawn)


def draw(candidates: DataFrame, strata: Strata, *, seed: int) -> DataFrame:
    """The sampled rows with `inclusion_probability`; more rows drawn of a stratum hold those of fewer.

    Args:
        candidates: with `id`, `stratum` and `weight` (above 0).
        strata: of the same candidates.
        seed: of the draw.
    """
    listed = [(category, name, strata.drawn[name]) for category, name in strata.of_category.items()]
    spark = candidates.sparkSession
    sizes = F.broadcast(spark.createDataFrame(listed, "category string, stratum string, num_sampled bigint"))
    known = candidates.withColumnRenamed("stratum", "category").join(sizes, on="category", how="left")
    other = {"stratum": F.lit(OTHER), "num_sampled": F.lit(strata.drawn.get(OTHER)).cast("bigint")}
    merged = known.withColumns({name: F.coalesce(name, value) for name, value in other.items()})
    key = -F.log(stable_uniform(seed, F.lit("draw"), F.col("id"))) / F.col("weight")
    keyed = merged.withColumn("key", key).withColumn("part", F.pmod(F.xxhash64("id"), F.lit(PARTS)))
    # First among a part of the stratum, then among what is left of it: a catalogue of one stratum is no one task's.
    sampled = _first(_first(keyed, "stratum", "part"), "stratum").drop("part")
    rates = merged.groupBy("stratum").agg(
        F.first("num_sampled").alias("n"), F.sort_array(F.collect_list("weight")).alias("weights")
    )
    rated = rates.select("stratum", _rate().alias("rate"))
    return sampled.join(rated, on="stratum", how="inner").withColumn("inclusion_probability", _probability())


def _first(keyed: DataFrame, *group: str) -> DataFrame:
    """Of each group the rows with the smallest keys, as many as its stratum gives."""
    place = F.row_number().over(Window.partitionBy(*group).orderBy("key", "id"))
    return keyed.withColumn("place", place).filter(F.col("place") <= F.col("num_sampled"))


def _rate() -> Column:
    """λ of Σ (1 − exp(−λw)) = n by Newton's method, which rises to the root from n / Σw; null where every row is in.

    The sum runs over the stratum's sorted weights, so that rounding is the same on every machine.
    """

    def total(of: Column) -> Column:
        return F.aggregate(of, F.lit(0.0), lambda sum_, value: sum_ + value)

    def step(rate: Column, _: Column) -> Column:
        missing = F.col("n") - total(F.transform("weights", lambda w: 1 - F.exp(-rate * w)))
        slope = total(F.transform("weights", lambda w: w * F.exp(-rate * w)))
        return rate + F.when(slope > 0, missing / slope).otherwise(0.0)

    start = F.col("n") / total(F.col("weights"))
    solved = F.aggregate(F.sequence(F.lit(1), F.lit(NEWTON_STEPS)), start, step)
    return F.when(F.col("n") < F.size("weights"), solved)


def _probability() -> Column:
    return F.when(F.col("rate").isNull(), 1.0).otherwise(-F.expm1(-F.col("rate") * F.col("weight")))
