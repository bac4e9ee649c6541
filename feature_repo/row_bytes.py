"""Columns as bytes that differ in length from row to row, and rows of one shape written as one matrix of bytes.

A command of a publication is the same bytes in every row but for a few stretches: the key, the values. Rows whose
stretches have the same lengths have the same shape; a numpy structured type of that shape fills all of them with one
strided copy per stretch, at about the speed of memory, where packing row by row takes microseconds a row.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

# N rows, B bytes a row

CHUNK_BYTES = 1 << 19
"""Filled at once: small enough for a processor's cache, large enough for a system call."""
ABSENT = -1
_MAX_VARINT = 10
Bytes = npt.NDArray[np.uint8]
Lengths = npt.NDArray[np.int64]
Stretches = npt.NDArray[np.void]


class Source(Protocol):
    """Where a stretch of each row comes from."""

    def take(self, rows: npt.NDArray[np.intp] | slice, length: int) -> Stretches:
        """The stretches [n] of some rows, all of which are so long."""


@dataclass(frozen=True, eq=False)
class Piece:
    """One stretch of every row, behind a head that depends on its length alone."""

    lengths_N: Lengths
    """ABSENT where the row has neither the stretch nor its head."""
    source: Source
    head: Callable[[int], bytes]

    def segments(self, length: int) -> "list[Segment]":
        """What stands in a row whose stretch is so long."""
        if length == ABSENT:
            return []
        return [self.head(length), (self.source, length)] if length else [self.head(0)]


Segment = bytes | tuple[Source, int]
"""Bytes that every row has, or a stretch of so many that differ."""


class Strings:
    """Stretches of one buffer."""

    def __init__(self, data: Bytes, starts_N: Lengths) -> None:
        """Row n begins at starts_N[n]."""
        self._data, self._starts_N = data, starts_N

    def take(self, rows: npt.NDArray[np.intp] | slice, length: int) -> Stretches:
        """See Source."""
        windows: Stretches = np.ndarray(
            (len(self._data) - length + 1,), dtype=f"V{length}", buffer=self._data, strides=(1,)
        )
        return windows[self._starts_N[rows]]


class Matrix:
    """The first bytes of a matrix's rows."""

    def __init__(self, bytes_NB: Bytes) -> None:
        """Copies only what is not contiguous; a memory-mapped file stays one."""
        self._bytes_NB = np.ascontiguousarray(bytes_NB)

    def take(self, rows: npt.NDArray[np.intp] | slice, length: int) -> Stretches:
        """See Source."""
        count, width = self._bytes_NB.shape
        stretches: Stretches = np.ndarray((count,), f"V{length}", self._bytes_NB, strides=(width,))
        return stretches[rows]


def strings(column: pa.Array) -> tuple[Lengths, Strings]:
    """Lengths, ABSENT for null, and bytes of an Arrow column of strings or bytes."""
    large = column.cast(pa.large_binary())
    _, offsets_buffer, data = large.buffers()
    offsets = np.frombuffer(offsets_buffer, dtype=np.int64)[large.offset : large.offset + len(large) + 1]
    lengths_N = np.diff(offsets)
    if large.null_count:
        lengths_N[large.is_null().to_numpy(zero_copy_only=False)] = ABSENT
    held = np.frombuffer(data, dtype=np.uint8) if data is not None else np.zeros(0, dtype=np.uint8)
    return lengths_N, Strings(held, offsets[:-1])


def varints(numbers_N: npt.NDArray[np.int64]) -> tuple[Lengths, Matrix]:
    """Lengths and bytes of protobuf's variable-length integers; a negative one takes ten bytes."""
    unsigned = numbers_N.astype(np.int64, copy=False).view(np.uint64)
    lengths_N = np.ones(len(unsigned), dtype=np.int64)
    for position in range(1, _MAX_VARINT):
        lengths_N += unsigned >= np.uint64(1 << 7 * position)
    width = int(lengths_N.max(initial=1))
    bytes_NB = np.empty((len(unsigned), width), dtype=np.uint8)
    for position in range(width):
        goes_on = (lengths_N > position + 1).astype(np.uint8) << 7
        bytes_NB[:, position] = ((unsigned >> np.uint64(7 * position)) & np.uint64(0x7F)).astype(np.uint8) | goes_on
    return lengths_N, Matrix(bytes_NB)


def varint(number: int) -> bytes:
    """One of them; number must not be negative."""
    made = bytearray()
    while number > 0x7F:
        made.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*made, number])


def same_shape(lengths: Sequence[Lengths]) -> Iterator[tuple[npt.NDArray[np.intp] | slice, tuple[int, ...]]]:
    """Rows parted by the lengths of their stretches.

    Args:
        lengths: of each stretch, one array [N] each.

    Yields:
        Rows of one shape, and the length each stretch has in them.
    """
    num_rows = len(lengths[0])
    if not num_rows:
        return
    codes, span = np.zeros(num_rows, dtype=np.int64), 1
    for lengths_N in lengths:
        low, high = int(lengths_N.min()), int(lengths_N.max())
        if low == high:
            continue
        codes = codes * (high - low + 1) + (lengths_N - low)
        span *= high - low + 1
        if span > np.iinfo(np.uint16).max:
            _, codes = np.unique(codes, return_inverse=True)
            span = int(codes.max()) + 1
    if span == 1:
        yield slice(0, num_rows), tuple(int(lengths_N[0]) for lengths_N in lengths)
        return
    # Two bytes are sorted by radix, which takes a tenth of the time.
    sortable = codes.astype(np.uint16) if span <= np.iinfo(np.uint16).max else codes
    order = np.argsort(sortable, kind="stable")
    cuts = [0, *(np.flatnonzero(np.diff(sortable[order])) + 1).tolist(), num_rows]
    for start, stop in pairwise(cuts):
        rows = order[start:stop]
        yield rows, tuple(int(lengths_N[rows[0]]) for lengths_N in lengths)


class Shape:
    """Rows of one shape, written again and again into one buffer."""

    def __init__(self, segments: Sequence[Segment]) -> None:
        """What a row consists of, in order."""
        joined = _joined(segments)
        sizes = [len(segment) if isinstance(segment, bytes) else segment[1] for segment in joined]
        self.width = sum(sizes)
        self._dtype = np.dtype([(f"f{number}", f"V{size}") for number, size in enumerate(sizes)])
        self._segments = joined
        self._buffer: npt.NDArray[Any] = np.empty(0, dtype=self._dtype)

    def chunks(self, rows: npt.NDArray[np.intp] | slice) -> Iterator[npt.NDArray[np.intp] | slice]:
        """The rows cut into what one buffer holds."""
        size = max(1, CHUNK_BYTES // self.width)
        if isinstance(rows, slice):
            for start in range(rows.start, rows.stop, size):
                yield slice(start, min(start + size, rows.stop))
            return
        for start in range(0, len(rows), size):
            yield rows[start : start + size]

    def fill(self, rows: npt.NDArray[np.intp] | slice) -> Bytes:
        """The bytes [n, B] of a chunk; valid until the next one is filled."""
        count = rows.stop - rows.start if isinstance(rows, slice) else len(rows)
        if count > len(self._buffer):
            self._buffer = np.empty(count, dtype=self._dtype)
            for number, segment in enumerate(self._segments):
                if isinstance(segment, bytes):
                    self._buffer[f"f{number}"] = np.void(segment)
        for number, segment in enumerate(self._segments):
            if not isinstance(segment, bytes):
                self._buffer[f"f{number}"][:count] = segment[0].take(rows, segment[1])
        return self._buffer[:count].view(np.uint8).reshape(count, self.width)


def _joined(segments: Sequence[Segment]) -> list[Segment]:
    """The segments with neighbouring constant ones made one."""
    joined: list[Segment] = []
    for segment in segments:
        last = joined[-1] if joined else None
        if isinstance(segment, bytes) and isinstance(last, bytes):
            joined[-1] = last + segment
        elif segment != b"":
            joined.append(segment)
    return joined
