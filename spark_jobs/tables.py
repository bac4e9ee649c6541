"""What a table maker gives back, and the order that every table is numbered and written in.

A maker takes DataFrames and settings and returns a `Made`: the rows of the dataset, and beside them every row that did
not become one, so that nothing is dropped in silence.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pyspark import StorageLevel
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F


@dataclass(frozen=True, kw_only=True)
class Made:
    """A maker's result."""

    rows: DataFrame
    """The dataset, with at least its schema's columns."""
    order: tuple[str, ...]
    """The dataset's key: rows are written in this order, so that partitioning cannot show."""
    is_placed: bool = False
    """True where partitions hold the rows in this order already, so that writing them shuffles and sorts nothing."""
    rejected: DataFrame | None = None
    """`source_row` and `reason` of each row that was left out for a fault."""
    skipped: DataFrame | None = None
    """Rows left out by a rule and not for a fault; only counted."""
    read: DataFrame | None = None
    """Rows the maker started from; None where each row it made is one it started from."""
    details: Mapping[str, Any] = field(default_factory=dict)
    """Facts for the manifest, JSON-able."""


def held(frame: DataFrame) -> DataFrame:
    """The frame kept once computed, on disk where memory ends; `execute` lets go of it."""
    return frame.persist(StorageLevel.MEMORY_AND_DISK)


def numbered(frame: DataFrame, order: Sequence[str], name: str) -> DataFrame:
    """The frame with a column that numbers its rows 0, 1, 2, … in the order given.

    One range shuffle, then each partition starts where the one before it ended: no single task sees all rows. The order
    must be total, or the numbers of equal rows may differ between runs.
    """
    partition, within = "_partition", "_within"
    ranged = frame.repartitionByRange(*order).sortWithinPartitions(*order)
    placed = held(
        ranged.withColumn(partition, F.spark_partition_id()).withColumn(within, F.monotonically_increasing_id())
    )
    sizes = placed.groupBy(partition).agg(F.count(F.lit(1)).alias("n"), F.min(within).alias("first")).collect()
    offset, starts = 0, []
    for row in sorted(sizes, key=lambda row: row[partition]):
        starts += [F.lit(row[partition]), F.lit(offset - row["first"])]
        offset += row["n"]
    shift = F.create_map(*starts)[F.col(partition)] if starts else F.lit(0)
    return placed.withColumn(name, (F.col(within) + shift).cast("bigint")).drop(partition, within)


def stable_uniform(seed: int, *keys: Column | str) -> Column:
    """A number in (0, 1) that depends on the seed and the keys only, not on partitions or order."""
    return (F.shiftrightunsigned(stable_hash(seed, *keys), 11) + F.lit(0.5)) / F.lit(float(2**53))


def stable_hash(seed: int, *keys: Column | str) -> Column:
    """64 bits that depend on the seed and the keys only."""
    return F.xxhash64(F.lit(seed).cast("bigint"), *keys)


def rejects(source_row: Column, reason: Column) -> tuple[Column, Column]:
    """The two columns of a rejected row."""
    return source_row.alias("source_row"), reason.alias("reason")
