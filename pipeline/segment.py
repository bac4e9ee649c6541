"""A folder of vectors that is written once: sorted keys, the vectors in their order, and a checksum for each row.

Three plain npy files, read through memory maps and without pickle. The checksum covers key and vector, so that a row
torn by a full disk, or one that belongs to another key, is told from one that was written.
"""

import os
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

READ_ROWS = 65_536
"""Rows of a whole segment held in memory at once."""


@dataclass(frozen=True, kw_only=True)
class Segment:
    """One such folder, its files memory-mapped."""

    folder: Path
    keys: np.ndarray
    sums: np.ndarray
    vectors_ND: np.ndarray

    @property
    def nbytes(self) -> int:
        """Of the vectors."""
        return int(self.vectors_ND.nbytes)

    def search(self, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Which of the keys are here, as positions in `keys`, and in which rows."""
        places = np.minimum(np.searchsorted(self.keys, keys), len(self.keys) - 1)
        hits = np.flatnonzero(self.keys[places] == keys)
        return hits, places[hits]

    def read(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The vectors of these rows, and which of them are as they were written."""
        vectors_HD = np.asarray(self.vectors_ND[rows])
        return vectors_HD, _sums(self.keys[rows], vectors_HD) == self.sums[rows]

    def all_whole(self) -> np.ndarray:
        """Which of all rows are as they were written."""
        parts = np.array_split(np.arange(len(self.keys)), max(-(-len(self.keys) // READ_ROWS), 1))
        return np.concatenate([self.read(rows)[1] for rows in parts])


def open_segment(folder: Path, key: np.dtype, dimension: int) -> Segment:
    """Maps the files of a segment.

    Args:
        folder: of the segment.
        key: type of its keys.
        dimension: of its vectors; 0 for any.

    Raises:
        FileNotFoundError: a file is missing.
        EOFError: a file is empty.
        ValueError: a file is torn, or holds something else.
    """
    keys, sums, vectors_ND = (
        np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False) for name in ("keys", "sums", "vectors")
    )
    shapes = keys.shape, sums.shape, vectors_ND.shape
    if keys.ndim != 1 or vectors_ND.ndim != 2 or shapes != (keys.shape, keys.shape, (len(keys), vectors_ND.shape[1])):
        raise ValueError(f"keys, sums and vectors of the shapes {shapes} do not belong together")
    if not len(keys) or vectors_ND.shape[1] != (dimension or vectors_ND.shape[1]):
        raise ValueError(f"it has {len(keys):,} vectors of length {vectors_ND.shape[1]}, wanted {dimension}")
    if (keys.dtype, sums.dtype, vectors_ND.dtype) != (key, np.uint32, np.float32):
        raise ValueError(f"its types are {keys.dtype}, {sums.dtype} and {vectors_ND.dtype}")
    return Segment(folder=folder, keys=keys, sums=sums, vectors_ND=vectors_ND)


def write_segment(folder: Path, keys: np.ndarray, parts: Iterable[np.ndarray]) -> None:
    """Writes a segment's files to the disk.

    Args:
        folder: is made.
        keys: sorted and distinct.
        parts: the vectors in that order, float32, in pieces that fit in memory.
    """
    folder.mkdir()
    sums, done = np.zeros(len(keys), dtype=np.uint32), 0
    with (folder / "vectors.npy").open("wb") as file:
        for part_ND in parts:
            if not done:
                shape = (len(keys), part_ND.shape[1])
                header = {"descr": "<f4", "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(file, header)  # type: ignore[no-untyped-call]
            sums[done : done + len(part_ND)] = _sums(keys[done : done + len(part_ND)], part_ND)
            file.write(np.ascontiguousarray(part_ND).data)
            done += len(part_ND)
        file.flush()
        os.fsync(file.fileno())
    assert done == len(keys), f"{done} vectors for {len(keys)} keys"
    for name, array in (("sums", sums), ("keys", keys)):
        with (folder / f"{name}.npy").open("wb") as file:
            np.save(file, array, allow_pickle=False)
            file.flush()
            os.fsync(file.fileno())


def gathered(segments: Sequence[Segment], owners: np.ndarray, rows: np.ndarray) -> Iterator[np.ndarray]:
    """Vectors from several segments, in pieces: the i-th is row rows[i] of segment owners[i]."""
    for start in range(0, len(rows), READ_ROWS):
        owner_P, row_P = owners[start : start + READ_ROWS], rows[start : start + READ_ROWS]
        part_PD = np.empty((len(row_P), segments[0].vectors_ND.shape[1]), dtype=np.float32)
        for number in np.unique(owner_P):
            part_PD[owner_P == number] = segments[number].vectors_ND[row_P[owner_P == number]]
        yield part_PD


def keys_beginning_with(keys: np.ndarray, beginnings: np.ndarray) -> np.ndarray:
    """Which of the keys begin with one of these byte strings, which are all of one length."""
    bytes_NK = np.frombuffer(keys.tobytes(), dtype=np.uint8).reshape(len(keys), keys.dtype.itemsize)
    shortened = np.ascontiguousarray(bytes_NK[:, : beginnings.dtype.itemsize])
    return np.isin(shortened.view(beginnings.dtype).reshape(-1), beginnings)


def _sums(keys: np.ndarray, vectors_ND: np.ndarray) -> np.ndarray:
    """CRC-32 of each key and its vector."""
    keys_NK = np.frombuffer(keys.tobytes(), dtype=np.uint8).reshape(len(keys), keys.dtype.itemsize)
    rows_NB = np.ascontiguousarray(vectors_ND).view(np.uint8)
    pairs = zip(keys_NK, rows_NB, strict=True)
    return np.fromiter((zlib.crc32(row.data, zlib.crc32(key.data)) for key, row in pairs), np.uint32, count=len(keys))
