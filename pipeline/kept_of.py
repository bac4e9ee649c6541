"""What stores keep of a person by content: the teacher's completions and vectors, found through the tables."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline import kept_vectors
from pipeline.content_store import ContentStore
from pipeline.dataset_erasure import datasets, rows_of
from pipeline.errors import MsdError
from pipeline.job import CONTENT_STORES, load
from pipeline.kept_vectors import KEPT_VECTORS
from pipeline.person import Person
from pipeline.runner import Plan
from pipeline.texts import text_id

ASKED = ("prompt_id", "level", "entity_id", "stratum", "text", "representative_id", "teacher_text")
KEY_MAKER = "msd_models.erasure:completion_keys"


@dataclass(kw_only=True)
class Kept:
    """Keys of everything that was made of a person's texts."""

    completions: set[str] = field(default_factory=set)
    """Keys of teacher completions."""
    content_hashes: set[str] = field(default_factory=set)
    """Of the texts that vectors were read from."""
    text_ids: set[str] = field(default_factory=set)
    """Of the texts of events, such as queries, that nobody else wrote."""
    missed: list[str] = field(default_factory=list)
    """What could not be worked out."""

    def count(self, root: Path) -> dict[str, int]:
        """How many values each store holds."""
        counted = {}
        for folder in _stores(root):
            with ContentStore(folder) as store:
                counted[f"{CONTENT_STORES}/{folder.name}"] = len(store.get_many(sorted(self.completions)))
        return counted | {KEPT_VECTORS: kept_vectors.count(root / KEPT_VECTORS, self._beginnings())}

    def remove(self, root: Path) -> None:
        """Drops them from disk.

        Raises:
            BusyError: a run holds the vectors.
        """
        for folder in _stores(root):
            with ContentStore(folder) as store:
                store.remove(self.completions)
        kept_vectors.remove(root / KEPT_VECTORS, self._beginnings())

    def _beginnings(self) -> set[bytes]:
        return {bytes.fromhex(shown) for shown in self.content_hashes | self.text_ids}


def gather(plan: Plan, person: Person) -> Kept:
    """Works out the keys from the person's rows of prompts, teacher_outputs, vectors and interactions."""
    root, kept = plan.workspace.root, Kept()
    asked: dict[tuple[Any, ...], dict[str, Any]] = {}
    for dataset in datasets(root):
        for path in sorted(dataset.folder.rglob("*.parquet")):
            for row in _rows(path, person, ("content_hash", "content_key", *ASKED)):
                kept.content_hashes |= {row["content_hash"]} if row.get("content_hash") else set()
                kept.completions |= {row["content_key"]} if row.get("content_key") else set()
                if dataset.name == "prompts" and row.get("teacher_text"):
                    asked[tuple(row[name] for name in ASKED)] = {name: row[name] for name in ASKED}
        if dataset.name == "interactions":
            kept.text_ids |= _own_texts(sorted(dataset.folder.glob("part-*.parquet")), person)
    if asked and _stores(root):
        try:
            kept.completions |= set(load(KEY_MAKER)(list(asked.values()), plan.settings["teacher_outputs"]))
        except MsdError as error:
            kept.missed.append(f"completions of later attempts, whose keys need the teacher's settings: {error}")
    return kept


def _stores(root: Path) -> list[Path]:
    folder = root / CONTENT_STORES
    return [path for path in sorted(folder.iterdir()) if path.is_dir()] if folder.is_dir() else []


def _rows(path: Path, person: Person, columns: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    names = set(pq.read_schema(path).names)
    if names & {"content_hash", "content_key", "teacher_text"}:
        for batch in rows_of(path, person, columns):
            yield from batch.select([name for name in columns if name in batch.schema.names]).to_pylist()


def _own_texts(paths: list[Path], person: Person) -> set[str]:
    """Ids of the texts that stand in this person's events and in no one else's."""
    theirs: set[str] = set()
    for path in paths:
        for batch in rows_of(path, person, ("context",)):
            theirs |= set(_values(batch).to_pylist())
    for path in paths if theirs else ():
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(columns=["user_id", "context"]):
                others = batch.filter(pc.invert(person.mask(batch)))
                found = pc.filter(_values(others), pc.is_in(_values(others), value_set=pa.array(sorted(theirs))))
                theirs -= set(found.unique().to_pylist())
    return {text_id(text) for text in theirs}


def _values(batch: pa.RecordBatch) -> pa.Array:
    """Every value of the rows' contexts."""
    return batch.column("context").items.cast(pa.string())
