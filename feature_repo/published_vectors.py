"""Ids that are not online → their vectors, out of the generation's own files: for `VectorLookup(on_miss=…)`.

What a memory budget or `active_days` kept out of Redis is in the catalogue all the same. Its vector lies in
`vectors.npy` of the dataset the generation was made from; the ids are held in memory, sorted, at about their own size
and 16 bytes each.
"""

from bisect import bisect_right
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from feature_repo.lookup import Entity, Found
from feature_repo.offline import ROWS_FILE, VECTORS_FILE
from feature_repo.pointer import Pointer
from pipeline.errors import StageError

_FOLDERS = {"item": "items", "user": "users"}


class PublishedVectors:
    """Reads the files of whichever generation it is asked for."""

    def __init__(self, work: Path) -> None:
        """Opens nothing yet.

        Args:
            work: the work directory the generations were published from.
        """
        self._work = work
        self._tables: dict[str, tuple[str, _Table]] = {}

    def __call__(self, pointer: Pointer, entity: Entity, ids: Sequence[str]) -> Found:
        """The vectors of some ids: see feature_repo.lookup.OnMiss.

        Raises:
            StageError: the generation's files are gone.
        """
        folder = pointer.folders[_FOLDERS[entity]]
        held = self._tables.get(entity)
        if held is None or held[0] != folder:
            held = self._tables[entity] = (folder, _Table(self._work / folder, entity))
        return held[1].gather(ids)


class _Table:
    """One dataset of features."""

    def __init__(self, folder: Path, entity: Entity) -> None:
        if not (folder / VECTORS_FILE).is_file():
            raise StageError(
                f"the files of the active generation are not at {folder}; publish again: msd run publication"
            )
        self._vectors_ND: npt.NDArray[np.float32] = np.load(folder / VECTORS_FILE, mmap_mode="r")
        key = f"{entity}_id"
        order = [(key, "ascending")] + ([("snapshot_at", "ascending")] if entity == "user" else [])
        rows = pq.read_table(folder / ROWS_FILE, columns=["vector_row", *(name for name, _ in order)])
        ordered = rows.take(pc.sort_indices(rows, order)).combine_chunks()
        self._ids: pa.Array = ordered.column(key).combine_chunks()
        self._rows: npt.NDArray[np.int64] = ordered.column("vector_row").to_numpy()

    def gather(self, ids: Sequence[str]) -> Found:
        """The vector of each id, of a user the latest."""
        rows = np.array([self._row(each) for each in ids], dtype=np.int64)
        found_N = rows >= 0
        vectors_ND = np.zeros((len(ids), self._vectors_ND.shape[1]), dtype=np.float32)
        vectors_ND[found_N] = self._vectors_ND[rows[found_N]]
        return vectors_ND, found_N

    def _row(self, wanted: str) -> int:
        """Row of the vector; -1 for an unknown id, and for the empty one, which rows of erased users have."""
        place = bisect_right(range(len(self._ids)), wanted, key=lambda position: self._ids[position].as_py()) - 1
        is_there = wanted and place >= 0 and self._ids[place].as_py() == wanted
        return int(self._rows[place]) if is_there else -1
