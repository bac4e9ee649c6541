"""Texts with a vector each for a store of kept vectors, and writers that a test runs beside it.

In a file of its own, without pytest: a writer's process imports it.
"""

import hashlib
import itertools
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pipeline.vector_store import VectorStore, keys_of

DIM = 3
TEXTS = [f"text {number}" for number in range(40)]


def keys(*texts):
    return keys_of(text.encode() for text in texts)


def vectors(*texts):
    """A vector no other text has."""
    digests = [hashlib.sha256(b"v" + text.encode()).digest()[: 4 * DIM] for text in texts]
    return np.frombuffer(b"".join(digests), dtype=np.uint32).reshape(-1, DIM).astype(np.float32)


def add_share(folder: Path, share: Sequence[str]) -> None:
    """Adds texts one by one."""
    store = VectorStore(folder, DIM)
    for text in share:
        store.add(keys(text), vectors(text))
    store.close()


def write_for_ever(folder: Path, name: str) -> None:
    """Adds and merges until it is killed; prints the number of each round that is stored."""
    for number in itertools.count():
        store = VectorStore(folder, DIM)
        texts = [f"{name} {number} {place}" for place in range(50)]
        store.add(keys(*texts), vectors(*texts))
        sys.stdout.write(f"{number}\n")
        sys.stdout.flush()
        store.compact()
        store.close()


if __name__ == "__main__":
    write_for_ever(Path(sys.argv[1]), sys.argv[2])
