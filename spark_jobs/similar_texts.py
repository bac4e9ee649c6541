"""Pairs of texts that are nearly the same: MinHash signatures meet in bands, and shingles decide.

The hashes are Spark ML's MinHashLSH. Its `approxSimilarityJoin` compares all texts that share a single one of them; on
texts with a line in common ("genres: Drama") that is every second pair. So the hashes are cut into bands (Leskovec,
Rajaraman and Ullman, Mining of Massive Datasets, section 3.4): eight hashes together agree by chance on nothing but
similar texts. A pair's similarity is then computed from the two sets of shingles, so that no wrong pair comes out.
"""

import math

from pyspark.ml.feature import HashingTF, MinHashLSH, NGram
from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F

from spark_jobs.tables import held

SHINGLE = 3
MIN_CHARACTERS = 20
"""A shorter text is a name, and another name with a letter changed is another thing."""
MAX_CHARACTERS = 4096
"""Shingles are taken from the beginning of a text; a teacher reads no more of it."""
FEATURES = 2**20
SEED = 7
NUM_BANDS = 8
MISSED = 0.01
"""Share of the pairs exactly at the threshold that meet in no band at most; of those above it less."""
MAX_WIDTH = 16
"""Hashes of one band: more of them keep no more pairs apart and cost time on every text."""
NUM_HEADS = 32
"""Texts of one band are compared with the first ones of it only, so that a catalogue out of one mould costs its rows
times this and not the square of its rows."""


def similar_pairs(texts: DataFrame, threshold: float) -> DataFrame:
    """(earlier, later, similarity): ranks of two texts with the same level and numbers, earlier < later.

    Args:
        texts: with `rank` (unique), `level`, `numbers` and `words` (normalised, all different).
        threshold: of the Jaccard similarity of the sets of character shingles, above 0.
    """
    signed = held(_signed(texts.filter(F.length("words") >= MIN_CHARACTERS), threshold))
    met = _met(signed, threshold)
    sides = {side: _named(signed.select("rank", "level", "numbers", "shingles"), side) for side in ("earlier", "later")}
    both = met.join(sides["earlier"], on="earlier", how="inner").join(sides["later"], on="later", how="inner")
    same_kind = (F.col("earlier_level") == F.col("later_level")) & (F.col("earlier_numbers") == F.col("later_numbers"))
    shared = F.size(F.array_intersect("earlier_shingles", "later_shingles"))
    total = F.size("earlier_shingles") + F.size("later_shingles") - shared
    scored = both.filter(same_kind).select("earlier", "later", (shared / total).alias("similarity"))
    return scored.filter(F.col("similarity") >= threshold)


def band_width(threshold: float) -> int:
    """Hashes per band: as many as leave a pair at the threshold in no common band MISSED of the time at most."""
    if threshold >= 1:
        return MAX_WIDTH
    agreeing = 1 - MISSED ** (1 / NUM_BANDS)
    return min(MAX_WIDTH, max(1, math.floor(math.log(agreeing) / math.log(threshold))))


def _signed(texts: DataFrame, threshold: float) -> DataFrame:
    """The texts with `shingles` (a set) and `bands` (a hash per band)."""
    begin = F.substring("words", 1, MAX_CHARACTERS)
    spelled = texts.withColumn("characters", F.split(F.concat(F.lit("  "), begin, F.lit("  ")), ""))
    shingled = NGram(n=SHINGLE, inputCol="characters", outputCol="repeated").transform(spelled)
    # As 64 bits each, sets of shingles are compared a hundred times faster than as text.
    sets = shingled.withColumn(
        "shingles", F.array_distinct(F.transform("repeated", lambda shingle: F.xxhash64(shingle)))
    )
    vectors = HashingTF(binary=True, numFeatures=FEATURES, inputCol="shingles", outputCol="vector").transform(sets)
    width = band_width(threshold)
    hasher = MinHashLSH(numHashTables=NUM_BANDS * width, seed=SEED, inputCol="vector", outputCol="hashes")
    hashed = hasher.fit(vectors).transform(vectors)
    # Level and numbers are part of the band: texts that differ in them never meet.
    bands = [
        F.xxhash64("level", "numbers", F.lit(number), F.slice("hashes", number * width + 1, width))
        for number in range(NUM_BANDS)
    ]
    return hashed.select("rank", "level", "numbers", "shingles", F.array(*bands).alias("bands"))


def _met(signed: DataFrame, threshold: float) -> DataFrame:
    """(earlier, later) of texts in one band whose sizes allow the similarity."""
    banded = signed.select("rank", F.size("shingles").alias("size"), F.explode("bands").alias("band"))
    place = F.row_number().over(Window.partitionBy("band").orderBy("rank"))
    placed = held(banded.withColumn("place", place))
    heads = placed.filter(F.col("place") <= NUM_HEADS).select(
        "band", F.col("rank").alias("earlier"), F.col("size").alias("earlier_size")
    )
    others = placed.filter(F.col("place") > 1).select(
        "band", F.col("rank").alias("later"), F.col("size").alias("later_size")
    )
    larger, smaller = F.greatest("earlier_size", "later_size"), F.least("earlier_size", "later_size")
    fits = (F.col("earlier") < F.col("later")) & (smaller >= larger * threshold)
    return heads.join(others, on="band", how="inner").filter(fits).select("earlier", "later").distinct()


def _named(frame: DataFrame, side: str) -> DataFrame:
    return frame.select(F.col("rank").alias(side), *[F.col(name).alias(f"{side}_{name}") for name in frame.columns[1:]])
