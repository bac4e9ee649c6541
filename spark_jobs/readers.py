"""Rows of a user's files as text, in their own order, each with what was wrong with it.

A `Rows` frame has the columns `row_order` (a struct that sorts like the rows of the files, files in the order given),
`cells` (a struct or map of texts by column name), `row_json` (the row as it stood; null where its cells say all of it),
`problem` (null where the row could be read) and `given_split`. Everything is text until a maker parses it: a schema
that Spark guesses depends on the rows it looks at.
"""

import functools
from collections.abc import Callable, Sequence
from pathlib import Path

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from pipeline.errors import SourceError
from pipeline.source import ENDINGS, Files, Format
from spark_jobs import kdd_cup_2012, mind
from spark_jobs.delimited import read_delimited
from spark_jobs.documents import read_json, read_jsonl, read_parquet
from spark_jobs.entries import ROW_ORDER, Entry

_READERS: dict[Format, Callable[[SparkSession, Entry], DataFrame]] = {
    Format.CSV: read_delimited,
    Format.TSV: read_delimited,
    Format.JSONL: read_jsonl,
    Format.JSON: read_json,
    Format.PARQUET: read_parquet,
    Format.MIND: mind.read,
    Format.KDD_CUP_2012: kdd_cup_2012.read,
}


def read(spark: SparkSession, label: str, files: Files, wanted: Sequence[str]) -> DataFrame:
    """All rows of a table.

    Args:
        spark: the session.
        label: the table's heading in the TOML: items, events or users.
        files: where the table lies.
        wanted: the columns the source names; each must be there.

    Raises:
        SourceError: a file is empty, has no known format or lacks a column.
    """
    entries = [
        _entry(label, files, path, tuple(dict.fromkeys(wanted)), split)
        for split, paths in files.paths.items()
        for path in paths
    ]
    parts = []
    for number, entry in enumerate(entries):
        part = _READERS[entry.format](spark, entry)
        ordered = F.struct(F.lit(number).alias("entry"), *[F.col("row_order")[key] for key in ROW_ORDER])
        split = F.coalesce(F.lit(entry.split or None).cast("string"), F.col("given_split"))
        parts.append(part.withColumn("row_order", ordered).withColumn("given_split", split))
    return functools.reduce(DataFrame.unionByName, parts)


def cell(name: str) -> Column:
    """A column of the source, trimmed; null where it is empty."""
    text = F.trim(F.col("cells")[name])
    return F.when(text != "", text)


def as_it_stood() -> Column:
    """A row of `read` as text, for people to read: JSON, or the line of the file."""
    return F.coalesce("row_json", F.to_json("cells"))


def attributes(names: Sequence[str]) -> Column:
    """A map of the named columns as text, missing ones left out."""
    pairs = [F.struct(F.lit(name).alias("key"), cell(name).alias("value")) for name in names]
    present = F.filter(F.array(*pairs), lambda pair: pair["value"].isNotNull()) if pairs else F.array()
    return F.map_from_entries(present.cast("array<struct<key:string,value:string>>"))


def _entry(label: str, files: Files, path: Path, wanted: tuple[str, ...], split: str) -> Entry:
    kind = files.format
    sample = path
    if path.is_dir() and kind not in (Format.MIND, Format.KDD_CUP_2012):
        sample = _first_file(label, path)
    if kind is Format.AUTO:
        if sample.suffix not in ENDINGS:
            known = ", ".join(sorted(ENDINGS))
            raise SourceError(
                f"[{label}] {sample.name}: the ending '{sample.suffix}' says no format (known: {known});"
                ' write format = "csv" or another beside its path'
            )
        kind = ENDINGS[sample.suffix]
    if sample.is_file() and sample.stat().st_size == 0:
        raise SourceError(f"[{label}] {sample.name} is empty; a table with at least one row was wanted")
    return Entry(label=label, files=files, path=path, format=kind, sample=sample, wanted=wanted, split=split)


def _first_file(label: str, folder: Path) -> Path:
    files = sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith((".", "_")))
    if not files:
        raise SourceError(f"[{label}] the folder {folder.name} holds no file; a table with at least one row was wanted")
    known = [path for path in files if path.suffix in ENDINGS]
    return (known or files)[0]
