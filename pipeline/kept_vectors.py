"""All vectors a work folder has made, kept across runs, presets and days: `WORK/kept_vectors/<space_id>/<reading>/`.

A dataset's folder stands for one set of inputs and settings; this stands below all of them, so that a changed catalogue
pays for what is new in it, items, users and texts of events share what they read alike, and a new space begins a folder
of its own and leaves the others readable. A space nobody reads any more may be deleted, folder and all.
"""

import json
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.segment import keys_beginning_with
from pipeline.storage import write_atomically
from pipeline.vector_store import BEGINNING, VectorStore

KEPT_VECTORS = "kept_vectors"


class KeptVectors:
    """The stores of a work folder, one for each space and way of reading. Close it, or use it as a context manager."""

    def __init__(self, root: Path) -> None:
        """Takes the folder; what is below it is made when it is needed."""
        self.root = root
        self._open: dict[tuple[str, str], VectorStore] = {}

    def store(self, space_id: str, reading: str, dimension: int) -> VectorStore:
        """The vectors of one space, read in one way.

        Args:
            space_id: of the encoder.
            reading: what else decides which vector a text has, such as where it is cut.
            dimension: of the vectors.
        """
        key = (space_id, reading)
        if key not in self._open:
            self._open[key] = VectorStore(self.root / space_id / reading, dimension)
        return self._open[key]

    def note(self, name: str, value: Mapping[str, Any]) -> None:
        """Keeps a fact about the work itself, the latest one winning."""
        write_atomically(self.root / f"{name}.json", json.dumps(value).encode())

    def all_noted(self, name: str) -> dict[str, dict[str, Any]]:
        """What `note` kept as `<space_id>/<name>`, by that name."""
        found = sorted(self.root.glob(f"*/{name}.json"))
        return {f"{path.parent.name}/{name}": json.loads(path.read_text(encoding="utf-8")) for path in found}

    def close(self) -> None:
        """Lets go of the files."""
        for store in self._open.values():
            store.close()
        self._open.clear()

    def __enter__(self) -> "KeptVectors":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def compact(root: Path) -> None:
    """Merges small segments, space by space; one that another process has open stays as it is."""
    for store in _every_store(root):
        store.compact()


def remove(root: Path, prefixes: Collection[bytes]) -> int:
    """Drops the vectors whose key begins so from every space; returns how many went.

    Args:
        root: WORK/kept_vectors.
        prefixes: `bytes.fromhex` of values of the column content_hash.

    Raises:
        BusyError: a run has one of the stores open.
    """
    return sum(store.remove(_beginnings(prefixes)) for store in _every_store(root))


def count(root: Path, prefixes: Collection[bytes]) -> int:
    """How many vectors the spaces hold whose key begins so; arguments as of `remove`."""
    beginnings, held = _beginnings(prefixes), 0
    for store in _every_store(root):
        store.refresh()
        held += sum(int(keys_beginning_with(segment.keys, beginnings).sum()) for segment in store.segments.values())
    return held


def _every_store(root: Path) -> Iterator[VectorStore]:
    for folder in sorted(path for path in root.glob("*/*") if path.is_dir()):
        store = VectorStore(folder, dimension=0)
        try:
            yield store
        finally:
            store.close()


def _beginnings(prefixes: Collection[bytes]) -> np.ndarray:
    assert all(len(prefix) == BEGINNING.itemsize for prefix in prefixes), "a content_hash has 16 hex digits"
    return np.frombuffer(b"".join(prefixes), dtype=BEGINNING)
