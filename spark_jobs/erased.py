"""Rows of people who were erased, left out at the door: before anything is judged, numbered or kept as rejected."""

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from pipeline.erased import ErasedList
from spark_jobs.readers import cell

FIELD_ENDS = r'\\[tnr"]|[,;|\t"{}:]'
"""Where a field of a line may end, the line written as JSON."""
WORD_ENDS = r"[^\p{L}\p{N}_]+"


def parted(rows: DataFrame, user: str, erased: ErasedList) -> tuple[DataFrame, DataFrame]:
    """(everybody else's rows, those of erased people) of a reader's rows.

    A row that could not be read has no user column; it is left out where any field or word of it is an erased id.

    Args:
        rows: of the reader.
        user: the column with the user's id.
        erased: of the work folder.
    """
    if not erased.digests:
        return rows, rows.filter(F.lit(False))
    is_theirs = F.coalesce(_is_listed(cell(user), erased), F.lit(False))
    words = F.concat(F.split("row_json", FIELD_ENDS), F.split("row_json", WORD_ENDS))
    in_broken = F.col("problem").isNotNull() & F.exists(words, lambda word: _is_listed(F.trim(word), erased))
    marked = rows.withColumn("is_erased", is_theirs | F.coalesce(in_broken, F.lit(False)))
    return marked.filter(~F.col("is_erased")).drop("is_erased"), marked.filter("is_erased").drop("is_erased")


def _is_listed(user_id: Column, erased: ErasedList) -> Column:
    return F.sha2(F.concat(F.lit(erased.salt), user_id), 256).isin(list(erased.digests))
