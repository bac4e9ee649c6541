"""Rows taken out of a Parquet file, row group by row group: the same schema and codecs, whole or not at all."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

Change = Callable[[pa.Table], pa.Table]


def rewrite(path: Path, change: Change) -> None:
    """Writes the file anew with each row group changed; a reader sees the old file or the new one.

    Args:
        path: the file.
        change: a row group's table → the table to write, of the same schema.
    """
    aside = path.with_name(f".{path.name}.erasing")
    with pq.ParquetFile(path) as file:
        schema = file.schema_arrow
        with pq.ParquetWriter(aside, schema, compression=_codecs(file.metadata)) as writer:
            for number in range(file.num_row_groups):
                changed = change(file.read_row_group(number))
                if changed.num_rows:
                    writer.write_table(changed.cast(schema), row_group_size=changed.num_rows)
    put_in_place(aside, path)


def put_in_place(aside: Path, path: Path) -> None:
    """Moves a file that was written aside over the one it replaces, on disk when it returns, with its permissions."""
    shutil.copymode(path, aside)
    with aside.open("rb") as file:
        os.fsync(file.fileno())
    aside.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _codecs(metadata: pq.FileMetaData) -> str | dict[str, str]:
    """The codec of each column as the first row group has it."""
    if not metadata.num_row_groups or not metadata.num_columns:
        return "zstd"
    group = metadata.row_group(0)
    columns = [group.column(number) for number in range(metadata.num_columns)]
    return {
        column.path_in_schema: "none" if column.compression == "UNCOMPRESSED" else column.compression.lower()
        for column in columns
    }
