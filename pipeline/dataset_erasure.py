"""A person's rows in the datasets of a work folder: found by columns, cut or blanked, manifests brought up to it.

Rows that others name by number (`histories`, `rows.parquet` of user features) stay as blank ones, so that no number
moves; everywhere else rows go. A dataset that cannot be cut row by row, and one that is only begun, is deleted: the
next run makes it anew. Order matters for a run that is killed: what says where a person's rows are goes last.
"""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.job import load
from pipeline.parquet_rows import rewrite
from pipeline.person import Person, key_columns
from pipeline.stages import BY_NAME
from pipeline.storage import FINGERPRINT_DIGITS, Dataset, amend

BATCH_ROWS = 65_536
WHOLE = ("ctr_records",)
"""Binary records with dictionaries of ids and of attribute values."""
FEATURES = ("user_features", "tuned_user_features")
NUMBERS_KEPT = ("vector_row",)
WITHOUT_USERS = ("items", "item_stats", "item_vectors", "item_text_vectors", "tuned_item_vectors", "item_features")
LAST = ("interactions",)
"""Cut after the others: it says which texts of events were this person's alone."""
VECTOR_ERASER = "feature_repo.erasure:blank_vectors"


def datasets(root: Path) -> list[Dataset]:
    """Every fingerprint of every dataset in the work folder, committed or not, in the order they are cut in."""
    found = []
    for name in sorted(BY_NAME, key=lambda name: name in LAST):
        for folder in sorted((root / name).glob("*")) if (root / name).is_dir() else []:
            fingerprint = folder.name.removeprefix(".").split(".")[0]
            if folder.is_dir() and len(fingerprint) == FINGERPRINT_DIGITS:
                found.append(Dataset(name=name, fingerprint=fingerprint, folder=folder, schema=BY_NAME[name].schema))
    return found


def rows_of(path: Path, person: Person, columns: tuple[str, ...] = ()) -> Iterator[pa.RecordBatch]:
    """The person's rows of a Parquet file, with those columns and the ones that name people.

    Args:
        path: the file.
        person: whose rows.
        columns: wanted beside; those the file lacks are left out.
    """
    with pq.ParquetFile(path) as file:
        schema = file.schema_arrow
        keys = key_columns(schema)
        wanted = [*keys, *(name for name in columns if name in schema.names and name not in keys)]
        for batch in file.iter_batches(BATCH_ROWS, columns=wanted) if keys else ():
            mask = person.mask(batch)
            if mask is not None and (mask.true_count or 0):
                yield batch.filter(mask)


def count_rows(path: Path, person: Person) -> int:
    """How many rows of a Parquet file are the person's."""
    return sum(batch.num_rows for batch in rows_of(path, person))


@dataclass(frozen=True, kw_only=True)
class Found:
    """What a dataset holds of a person."""

    dataset: Dataset
    rows: int
    action: str
    """What is done about it: `cut`, `blanked` or `deleted`."""


def survey(root: Path, person: Person) -> list[Found]:
    """Every dataset that holds rows of the person, and those that cannot be cut or are only begun."""
    found = []
    for dataset in datasets(root):
        rows = sum(count_rows(path, person) for path in _tables(dataset))
        if _is_begun(dataset) and any(dataset.folder.iterdir()):
            found.append(Found(dataset=dataset, rows=rows, action="deleted, only begun"))
        elif rows:
            action = "deleted, made anew by the next run" if dataset.name in WHOLE else "cut"
            found.append(Found(dataset=dataset, rows=rows, action=_blanked_or(action, dataset)))
    return found


def erase_in(dataset: Dataset, person: Person) -> None:
    """Takes the person out of one dataset; done twice, or gone on with after a kill, it ends in the same state."""
    if _is_begun(dataset) or (dataset.name in WHOLE and _holds(dataset, person)):
        delete(dataset.folder)
        return
    changed: set[Path] = set()
    if dataset.name == "ctr_model":
        changed |= _cut_scored_rows(dataset, person)
    if dataset.name in FEATURES:
        changed |= _blank_vectors(dataset, person)
    counted = {path: count_rows(path, person) for path in _tables(dataset)}
    touched = {path: rows for path, rows in counted.items() if rows}
    for path in touched:
        change = _blank if _is_blanked(dataset, path) else cut
        rewrite(path, partial(change, person))
    changed |= touched.keys()
    if changed:
        amend(dataset.folder, sum(touched.values()), changed)


def unlisted_tables(root: Path) -> list[Path]:
    """Parquet files below the work folder that belong to no dataset, such as those of an ablation or a tuning."""
    known = set(BY_NAME)
    return [path for path in sorted(root.rglob("*.parquet")) if path.relative_to(root).parts[0] not in known]


def _is_begun(dataset: Dataset) -> bool:
    """Unfinished, or moved away to be deleted, and not of items alone."""
    is_unfinished = dataset.manifest is None or dataset.folder.name.startswith(".")
    return is_unfinished and dataset.name not in WITHOUT_USERS


def _tables(dataset: Dataset) -> list[Path]:
    """Parquet files; in ctr_model what tells a row's number of the person comes last."""
    return sorted(dataset.folder.rglob("*.parquet"), key=lambda path: (path.name == "rows.parquet", path))


def _holds(dataset: Dataset, person: Person) -> bool:
    return any(count_rows(path, person) for path in _tables(dataset))


def _is_blanked(dataset: Dataset, path: Path) -> bool:
    if dataset.name == "histories":
        return True
    return dataset.name in FEATURES and path.name == "rows.parquet"


def _blanked_or(action: str, dataset: Dataset) -> str:
    if dataset.name == "histories":
        return "blanked, others name its rows by number"
    return "cut, vectors zeroed" if dataset.name in FEATURES else action


def cut(person: Person, table: pa.Table) -> pa.Table:
    """The table without the person's rows."""
    return table.filter(pc.invert(_mask(person, table)))


def _blank(person: Person, table: pa.Table) -> pa.Table:
    """The person's rows with nothing in them; numbers of vectors stay, for they number the blank rows themselves."""
    mask = _mask(person, table)
    columns = []
    for field in table.schema:
        column = table.column(field.name)
        is_kept = field.name in NUMBERS_KEPT
        columns.append(column if is_kept else _emptied(column, field, mask))
    return pa.table(columns, schema=table.schema)


def _emptied(column: pa.ChunkedArray, field: pa.Field, mask: pa.ChunkedArray) -> pa.ChunkedArray:
    if pa.types.is_nested(field.type):
        # Arrow cannot choose between lists by a mask: the rows are taken from the column with an empty list behind it.
        longer = pa.chunked_array([*column.chunks, pa.array([[]], field.type)])
        places = pc.if_else(mask, len(column), pa.array(range(len(column))))
        return longer.take(places)
    nothing = "" if pa.types.is_string(field.type) else 0
    empty = pa.scalar(nothing, pa.int64() if nothing == 0 else field.type).cast(field.type)
    return pc.if_else(mask, empty, column)


def _mask(person: Person, table: pa.Table) -> pa.ChunkedArray:
    names = key_columns(table.schema)
    masks = [person.mask(batch) for batch in table.select(names).to_batches()]
    return pa.chunked_array([mask for mask in masks if mask is not None], pa.bool_())


def _cut_scored_rows(dataset: Dataset, person: Person) -> set[Path]:
    """`rows.parquet` of ctr_model tells of events and not of users: whose they were, the predictions say."""
    events: set[int] = set()
    for path in sorted((dataset.folder / "predictions").glob("*.parquet")):
        for batch in rows_of(path, person, ("event_id",)):
            events.update(batch.column("event_id").to_pylist())
    path = dataset.folder / "rows.parquet"
    if not (events and path.is_file()):
        return set()
    scored = pa.array(sorted(events), pa.int64())
    rewrite(path, lambda table: table.filter(pc.invert(pc.is_in(table.column("event_id"), value_set=scored))))
    return {path}


def _blank_vectors(dataset: Dataset, person: Person) -> set[Path]:
    """Before the rows that say whose they are."""
    path = dataset.folder / "rows.parquet"
    numbers = [number for batch in rows_of(path, person, NUMBERS_KEPT) for number in batch["vector_row"].to_pylist()]
    return set(load(VECTOR_ERASER)(dataset.folder, numbers)) if numbers else set()


def delete(folder: Path) -> None:
    """Deletes a folder, moved away whole first: one half deleted might look like one half made."""
    doomed = folder
    if not folder.name.startswith("."):
        doomed = folder.with_name(f".{folder.name}.erased")
        shutil.rmtree(doomed, ignore_errors=True)
        folder.rename(doomed)
    shutil.rmtree(doomed)
