"""Fixed-width records in one file per split: written once, read in long runs, shuffled a pool at a time.

A file is `.npy` with a structured type, so that any NumPy opens it. It is read by position into memory and not through
a map: pages of a map that a shuffle has touched would stay with the process, and memory would grow with the log.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

Records = npt.NDArray[np.void]
BLOCK_ROWS = 16_384
"""Rows that stay together when pools are drawn from a log that does not fit into one."""


def record_type(num_fields: int, num_numbers: int, num_history: int, num_contexts: int) -> np.dtype:
    """The structured type of an example.

    Args:
        num_fields: F.
        num_numbers: M.
        num_history: L.
        num_contexts: Q.
    """
    # Wide numbers first and padded to eight bytes: every number lies where a processor reads it at once.
    fields: list[tuple[str, str, tuple[int, ...]]] = [
        ("event_id", "<i8", ()),
        ("item", "<i4", ()),
        ("user", "<i4", ()),
        ("item_row", "<i4", ()),
        ("user_row", "<i4", ()),
        ("codes", "<i4", (num_fields,)),
        ("numbers", "<f4", (num_numbers,)),
        ("history", "<i4", (num_history,)),
        ("context_rows", "<i4", (num_contexts,)),
        ("flags", "u1", (num_history,)),
        ("gaps", "u1", (num_history,)),
        ("click", "u1", ()),
    ]
    used = np.dtype(fields).itemsize
    return np.dtype([*fields, ("unused", "u1", (-used % 8,))])


@dataclass(frozen=True, kw_only=True)
class RecordFile:
    """One split's records on disk."""

    path: Path
    dtype: np.dtype
    num_rows: int
    data_start: int
    """Bytes before the first record."""

    def __len__(self) -> int:
        """Records."""
        return self.num_rows

    def read(self, first: int, count: int) -> Records:
        """Records first … first + count − 1, in memory."""
        count = min(count, self.num_rows - first)
        return np.fromfile(
            self.path, dtype=self.dtype, count=count, offset=self.data_start + first * self.dtype.itemsize
        )

    def batches(self, rows: int) -> Iterator[Records]:
        """All records in the file's order."""
        for first in range(0, self.num_rows, rows):
            yield self.read(first, rows)

    def shuffled(self, rows: int, pool_rows: int, generator: np.random.Generator) -> Iterator[Records]:
        """All records in random order, each once.

        Args:
            rows: of a batch; the last of an epoch may be shorter.
            pool_rows: records held and shuffled at once. A file that has no more is shuffled as a whole; of a larger
                one, pools are drawn from blocks in random order, and a pool's rest opens the next one.
            generator: of the order.
        """
        left = np.empty(0, dtype=self.dtype)
        for pool in self._pools(pool_rows, generator):
            pool = np.concatenate([left, pool]) if len(left) else pool
            order = generator.permutation(len(pool))
            whole = len(pool) // rows * rows
            for first in range(0, whole, rows):
                yield pool[order[first : first + rows]]
            left = pool[order[whole:]]
        if len(left):
            yield left

    def _pools(self, pool_rows: int, generator: np.random.Generator) -> Iterator[Records]:
        if self.num_rows <= pool_rows:
            yield self.read(0, self.num_rows)
            return
        starts = generator.permutation(np.arange(0, self.num_rows, BLOCK_ROWS))
        step = max(1, pool_rows // BLOCK_ROWS)
        for first in range(0, len(starts), step):
            yield np.concatenate([self.read(int(start), BLOCK_ROWS) for start in starts[first : first + step]])


class RecordWriter:
    """Writes one split's records as they come; the count is set when the file is closed."""

    def __init__(self, path: Path, dtype: np.dtype) -> None:
        """Opens path anew."""
        self.path = path
        self.dtype = dtype
        self.num_rows = 0
        self._file = path.open("wb")
        self._write_header()

    def write(self, records: Records) -> None:
        """Appends records."""
        assert records.dtype == self.dtype
        self._file.write(np.ascontiguousarray(records).tobytes())
        self.num_rows += len(records)

    def close(self) -> None:
        """Sets the count in the header."""
        self._file.seek(0)
        self._write_header()
        self._file.close()

    def _write_header(self) -> None:
        # A fixed width: room for the count of any log.
        facts = {"descr": self.dtype.descr, "fortran_order": False}
        text = f"{ {**facts, 'shape': (self.num_rows,)}!r}".encode()
        self._file.write(NPY_1_0 + (HEADER_BYTES - len(NPY_1_0) - 2).to_bytes(2, "little"))
        self._file.write(text.ljust(HEADER_BYTES - len(NPY_1_0) - 3) + b"\n")


NPY_1_0 = b"\x93NUMPY\x01\x00"
HEADER_BYTES = 1024


def open_records(path: Path) -> RecordFile:
    """A file that RecordWriter closed."""
    mapped = np.load(path, mmap_mode="r", allow_pickle=False)
    return RecordFile(path=path, dtype=mapped.dtype, num_rows=len(mapped), data_start=HEADER_BYTES)
