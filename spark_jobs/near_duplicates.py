"""Which rows of the sample say the same, so that the teacher reads one text of each group.

Texts equal but for case, spaces and punctuation are grouped first: 100,000 copies of "unknown" are one text from then
on. Of the distinct ones `spark_jobs.similar_texts` finds the pairs. Representatives are the lexicographically first
maximal independent set of these pairs, in the order of a hash of the id: a text is read by the teacher unless an
earlier one that is read is near it. So each row is near the very text whose output it gets, in a chain of small steps
too, and a new row seldom takes a group over. A random order is settled in a few rounds (Fischer and Noever 2018).
"""

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from pipeline.errors import ConfigError
from spark_jobs.similar_texts import similar_pairs
from spark_jobs.tables import held, stable_hash

LOWEST = 0.5
"""Below it texts hardly share a hash and their pairs would not be found."""
SEED = 7

FULL_WIDTH = "".join(chr(code) for code in range(0xFF01, 0xFF5F))
HALF_WIDTH = "".join(chr(code - 0xFEE0) for code in range(0xFF01, 0xFF5F))
SPACING = r"[\s\p{Z}\p{Cc}\p{Cf}\p{Pd}\p{Ps}\p{Pe}\p{Pi}\p{Pf}.,;:!?'\"_/\\。、]+"
"""What is read as a space. Symbols stay: C++ is not C#."""
NUMBER = r"\p{N}+(?:[.,]\p{N}+)*|(?<![\p{L}\p{N}])[ivx]+(?![\p{L}\p{N}])|[〇零一二两三四五六七八九十百千万]+"
"""Digits, Roman numerals and Chinese ones: Alien II is not Alien III."""


def with_representatives(rows: DataFrame, threshold: float) -> DataFrame:
    """The rows with `representative_id` and `teacher_text`.

    Two rows of one level whose texts hold the same numbers in the same order are near-duplicates when the texts are
    equal but for case, spaces and punctuation, or when their shingles have a Jaccard similarity of threshold or more.

    Args:
        rows: with `prompt_id` (unique), `level` and `text`.
        threshold: from 0.5 to 1; above 1 every row represents itself.

    Raises:
        ConfigError: the threshold is lower.
    """
    if threshold < LOWEST:
        raise ConfigError(
            f"[prompts] near_duplicate = {threshold}: it must be from {LOWEST} to 1, or above 1 to let the teacher read"
            " every text"
        )
    if threshold > 1:
        return rows.withColumn("representative_id", F.col("prompt_id")).withColumn("teacher_text", F.col("text"))
    normal = rows.withColumn("rank", _rank()).withColumns(_normalised())
    group = Window.partitionBy("level", "numbers", "words")
    first = F.min("rank").over(group.rowsBetween(Window.unboundedPreceding, Window.unboundedFollowing))
    grouped = held(normal.withColumn("later", first))
    distinct = grouped.filter(F.col("rank") == F.col("later")).select("rank", "level", "numbers", "words")
    nearest = _nearest_read(held(similar_pairs(distinct, threshold)))
    representative = F.substring(F.coalesce("earlier", "later"), 17, 2**31 - 1).alias("representative_id")
    chosen = grouped.join(nearest, on="later", how="left").select(*rows.columns, representative)
    read = rows.select(F.col("prompt_id").alias("representative_id"), F.col("text").alias("teacher_text"))
    return chosen.join(read, on="representative_id", how="inner")


def count_read(rows: DataFrame) -> dict[str, dict[str, int]]:
    """Of each level, its rows and how many of them the teacher reads."""
    is_read = F.count_if(F.col("representative_id") == F.col("prompt_id"))
    counted = rows.groupBy("level").agg(F.count(F.lit(1)).alias("rows"), is_read.alias("read")).collect()
    return {row["level"]: {"rows": row["rows"], "read": row["read"]} for row in sorted(counted)}


def _rank() -> Column:
    """16 hex digits of a hash, then the id: the hash keeps a run of ids from lining up into a run of rounds."""
    return F.concat(F.lpad(F.hex(stable_hash(SEED, F.col("prompt_id"))), 16, "0"), "prompt_id")


def _normalised() -> dict[str, Column]:
    """`numbers` of a text and its `words`; a text of nothing but punctuation keeps it."""
    plain = F.lower(F.translate("text", FULL_WIDTH, HALF_WIDTH))
    words = F.trim(F.regexp_replace(plain, SPACING, " "))
    return {
        "numbers": F.concat_ws(" ", F.regexp_extract_all(plain, F.lit(NUMBER), F.lit(0))),
        "words": F.when(words == "", plain).otherwise(words),
    }


def _nearest_read(pairs: DataFrame) -> DataFrame:
    """(later, earlier): of each text that is not read, the most similar of the earlier ones that are."""
    covered = _covered(pairs.select("earlier", "later")).withColumnRenamed("later", "earlier")
    of_read = pairs.join(covered, on="earlier", how="left_anti")
    nearest = F.min_by("earlier", F.struct(-F.col("similarity"), "earlier"))
    return of_read.groupBy("later").agg(nearest.alias("earlier"))


def _covered(pairs: DataFrame) -> DataFrame:
    """The texts, as `later`, that have an earlier neighbour which is read.

    In each round a text with no earlier neighbour left is read, its neighbours are covered, and pairs that hold one of
    these are settled. Only whether there are pairs left reaches the driver. A round reads what the last one left from
    three sides, so that without a checkpoint the plan would triple with each.
    """
    covered, left = pairs.select("later").limit(0), pairs.localCheckpoint()
    while not left.isEmpty():
        waiting = left.select(F.col("later").alias("earlier")).distinct()
        from_read = left.join(waiting, on="earlier", how="left_anti")
        settled = from_read.select("later").distinct().localCheckpoint()
        left = left.join(settled, on="later", how="left_anti")
        left = left.join(settled.withColumnRenamed("later", "earlier"), on="earlier", how="left_anti").localCheckpoint()
        covered = covered.unionByName(settled)
    return covered
