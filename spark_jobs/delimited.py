"""Rows of CSV and TSV files: quotes, line breaks inside quotes, byte order marks, both line ends.

The bytes are read as Latin-1, in which every byte is a letter, split at the separators and only then decoded: Spark's
own decoder would replace what is no UTF-8 and nobody would know.
"""

import csv
import itertools
from pathlib import Path

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import StringType, StructField, StructType

from pipeline.errors import SourceError
from pipeline.source import Format
from spark_jobs.entries import NOT_UTF8, Entry, as_uri, row_order

CORRUPT = "_corrupt"
SPLITTABLE_BYTES = 256 * 2**20
"""From this size on a file without any quote is read by many tasks; a quoted field may hold a line break, so that a
file with quotes is read by one."""


def read_delimited(spark: SparkSession, entry: Entry) -> DataFrame:
    """The rows of a file or folder.

    Raises:
        SourceError: no header, headers that differ, or a column that is not there.
    """
    separator = entry.files.separator or ("\t" if entry.format is Format.TSV else ",")
    names = _column_names(entry, separator)
    entry.check_columns(names)
    fields = [f"c{number}" for number in range(len(names))]
    reader = (
        spark.read.schema(StructType([StructField(name, StringType()) for name in [*fields, CORRUPT]]))
        .option("encoding", "ISO-8859-1")
        .option("sep", separator)
        .option("header", entry.files.header)
        .option("quote", '"')
        .option("escape", '"')
        .option("multiLine", _may_break_inside_quotes(entry))
        .option("mode", "PERMISSIVE")
        .option("columnNameOfCorruptRecord", CORRUPT)
        .option("recursiveFileLookup", True)
    )
    frame = reader.csv([as_uri(path) for path in entry.all_files()]).select("*", row_order())
    raw = [F.encode(F.col(name), "ISO-8859-1").cast("string") for name in fields]
    texts = [_decoded(column, is_first=number == 0) for number, column in enumerate(raw)]
    cells = F.struct(*[text.alias(name) for text, name in zip(texts, names, strict=True)])
    broken = [column.isNotNull() & ~F.is_valid_utf8(column) for column in raw]
    problem = F.when(F.col(CORRUPT).isNotNull(), F.lit(f"not {len(names)} fields")).when(
        F.greatest(*broken, F.lit(False)), F.lit(NOT_UTF8)
    )
    row = F.when(F.col(CORRUPT).isNotNull(), F.to_json(F.struct(F.col(CORRUPT).alias("line")))).otherwise(
        F.to_json(cells)
    )
    return frame.select(
        "row_order",
        cells.alias("cells"),
        row.alias("row_json"),
        problem.alias("problem"),
        F.lit(None).cast("string").alias("given_split"),
    )


def _decoded(raw: Column, *, is_first: bool) -> Column:
    text = F.make_valid_utf8(raw)
    return F.regexp_replace(text, "^\ufeff", "") if is_first else text


def _column_names(entry: Entry, separator: str) -> list[str]:
    if not entry.files.header:
        return list(entry.files.columns)
    headers = {path: _header(entry, path, separator) for path in entry.all_files()}
    first = headers[entry.sample] if entry.sample in headers else next(iter(headers.values()))
    for path, header in headers.items():
        if header != first:
            raise SourceError(
                f"[{entry.label}] {path.name} begins with {', '.join(header)} but {entry.sample.name} with"
                f" {', '.join(first)}; files of one table must have the same columns"
            )
    if not entry.files.columns:
        return first
    if len(entry.files.columns) != len(first):
        raise SourceError(
            f"[{entry.label}] columns names {len(entry.files.columns)} columns but {entry.sample.name} has"
            f" {len(first)}: {', '.join(first)}"
        )
    return list(entry.files.columns)


def _header(entry: Entry, path: Path, separator: str) -> list[str]:
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        rows = csv.reader(file, delimiter=separator)
        header = next((row for row in itertools.islice(rows, 100) if row), None)
    if not header:
        raise SourceError(f"[{entry.label}] {path.name} is empty; a line of column names was wanted")
    return [name.strip() for name in header]


def _may_break_inside_quotes(entry: Entry) -> bool:
    for path in entry.all_files():
        if path.stat().st_size < SPLITTABLE_BYTES:
            return True
        with path.open("rb") as file:
            if any(b'"' in block for block in iter(lambda: file.read(2**24), b"")):
                return True
    return False
