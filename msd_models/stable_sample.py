"""A sample of a stream in bounded memory: the rows whose keys have the smallest hashes, whatever order they come in."""

import hashlib
import heapq
from typing import Generic, TypeVar

import numpy as np
import numpy.typing as npt

Row = TypeVar("Row")


class StableSample(Generic[Row]):
    """At most `size` of the rows offered; a larger sample holds the smaller one's rows."""

    def __init__(self, size: int, *, seed: int, purpose: str) -> None:
        """An empty sample.

        Args:
            size: rows kept at most.
            seed: another seed, another sample.
            purpose: keeps samples of the same keys for different ends independent.
        """
        self._size = size
        self._salt = f"{purpose}\0{seed}\0"
        # Of what is kept, the largest hash stands first: the next to leave.
        self._heap: list[tuple[int, str, Row]] = []

    def offer(self, key: str, row: Row) -> None:
        """Keeps the row if its key's hash is small enough; each key is offered once."""
        entry = (-stable_hash(self._salt, key), key, row)
        if len(self._heap) < self._size:
            heapq.heappush(self._heap, entry)
        elif self._heap and entry[:2] > self._heap[0][:2]:
            heapq.heapreplace(self._heap, entry)

    def rows(self) -> list[Row]:
        """The kept rows in the order of their hashes."""
        return [row for _, _, row in sorted(self._heap, key=lambda entry: (-entry[0], entry[1]))]


def stable_hash(salt: str, key: str) -> int:
    """64 bits that depend on nothing but the two texts."""
    return int.from_bytes(hashlib.sha256(f"{salt}\0{key}".encode()).digest()[:8], "big")


def hashed_numbers(numbers_N: npt.NDArray[np.integer], seed: int) -> npt.NDArray[np.uint64]:
    """splitmix64 of each number: a draw that depends on nothing but the number and the seed."""
    with np.errstate(over="ignore"):
        mixed_N = numbers_N.astype(np.uint64) + np.uint64(seed + 1) * np.uint64(0x9E3779B97F4A7C15)
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
            mixed_N = (mixed_N ^ (mixed_N >> np.uint64(shift))) * np.uint64(factor)
        return mixed_N ^ (mixed_N >> np.uint64(31))
