"""One file or folder of a table, and what its readers share: the rows' order, checks of columns and of UTF-8."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from pipeline.errors import SourceError
from pipeline.source import Files, Format

NOT_UTF8 = "not valid UTF-8"
ROW_ORDER = ("file", "block", "row", "part")
"""Fields of `row_order`; `part` counts the events that one row of a file stands for."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One path of a table."""

    label: str
    files: Files
    path: Path
    format: Format
    sample: Path
    """The file itself, or the first one of a folder."""
    wanted: tuple[str, ...]
    split: str
    """The split all its rows belong to; empty where it says none."""

    def check_columns(self, found: Sequence[str]) -> None:
        """Raises a SourceError that names the columns there are, where a wanted one is missing."""
        missing = [name for name in self.wanted if name not in found]
        if missing:
            names = ", ".join(f"'{name}'" for name in missing)
            raise SourceError(f"[{self.label}] {self.sample.name} has no column {names}; it has {', '.join(found)}")

    def all_files(self) -> list[Path]:
        """The file, or every file of the folder with the sample's ending."""
        if self.path.is_file():
            return [self.path]
        return sorted(path for path in self.path.rglob(f"*{self.sample.suffix}") if is_shown(path, self.path))


def is_shown(path: Path, folder: Path) -> bool:
    """Whether Spark reads it: no part of the path below the folder begins with a dot or an underscore."""
    return path.is_file() and not any(part.startswith((".", "_")) for part in path.relative_to(folder).parts)


def row_order() -> Column:
    """Sorts like the rows of the files: Spark orders its own partitions by size, so that only this is exact."""
    return F.struct(
        F.col("_metadata.file_path").alias("file"),
        F.col("_metadata.file_block_start").alias("block"),
        F.monotonically_increasing_id().alias("row"),
        F.lit(0).alias("part"),
    ).alias("row_order")


def moved(field: str, value: Column) -> Column:
    """row_order with one field replaced; spelled out, for Spark 4.2 loses fields of `withField` behind an explode."""
    return F.struct(*[(value if key == field else F.col("row_order")[key]).alias(key) for key in ROW_ORDER])


def lines(spark: SparkSession, paths: Iterable[Path], *, whole: bool = False) -> DataFrame:
    """The lines of text files (or each whole file) with their order, undecoded: `line` may be no valid UTF-8."""
    frame = spark.read.text([as_uri(path) for path in paths], wholetext=whole, recursiveFileLookup=True)
    text = F.regexp_replace(F.make_valid_utf8("value"), "^\ufeff", "")
    return frame.select(
        row_order(),
        text.alias("line"),
        F.when(~F.is_valid_utf8("value"), F.lit(NOT_UTF8)).alias("problem"),
    )


def fields(frame: DataFrame, names: Sequence[str]) -> DataFrame:
    """Tab-separated lines without quoting as one struct `cells` of text."""
    parts = F.split("line", "\t", -1)
    is_whole = F.size(parts) == len(names)
    cells = F.struct(*[F.get(parts, F.lit(place)).alias(name) for place, name in enumerate(names)])
    problem = F.coalesce("problem", F.when(~is_whole, F.lit(f"not {len(names)} fields")))
    return frame.select("row_order", "line", cells.alias("cells"), problem.alias("problem"))


def exploded(frame: DataFrame, parts: Column) -> DataFrame:
    """One row per element of an array of text, as `part`, in the array's order; rows with a problem stay one row."""
    none = F.array(F.lit(None).cast("string"))
    listed = F.when(F.col("problem").isNotNull(), none).otherwise(parts)
    place = moved("part", F.col("place"))
    return frame.select("*", F.posexplode(listed).alias("place", "part")).withColumn("row_order", place).drop("place")


def as_rows(frame: DataFrame, cells: Column, given_split: Column | None = None) -> DataFrame:
    """What every reader gives: see `spark_jobs.readers`."""
    return frame.select(
        "row_order",
        cells.alias("cells"),
        F.col("line").alias("row_json"),
        "problem",
        (F.lit(None).cast("string") if given_split is None else given_split).alias("given_split"),
    )


def as_uri(path: Path) -> str:
    """The path as Spark takes it, whatever the default file system is; glob characters are escaped."""
    escaped = "".join(f"\\{letter}" if letter in "*?[]{}\\" else letter for letter in str(path.resolve()))
    return f"file://{escaped}"
