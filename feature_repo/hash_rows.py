"""Rows of some views of one entity → one hash per key: what HSET and HMGET of it say, shape by shape (`row_bytes`)."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from feature_repo import feast_format
from feature_repo.definitions import ViewPlan
from feature_repo.feast_format import Column
from feature_repo.row_bytes import Segment, same_shape
from feature_repo.vector_codec import Encoded

Rows = npt.NDArray[np.intp] | slice


@dataclass(frozen=True, kw_only=True, eq=False)
class Shard:
    """Some keys' rows of one view."""

    plan: ViewPlan
    rows: pa.Table
    """The key, the features and event_timestamp."""
    encoded: Encoded | None = None
    """The feature `vector` of the same rows, where `rows` does not hold it."""


class HashRows:
    """The hash fields of some keys, over all views given, as segments of the commands that write and read them."""

    def __init__(self, shards: Sequence[Shard], project: str) -> None:
        """Lays the columns out.

        Args:
            shards: of the same keys in the same order.
            project: Feast's project.
        """
        key = shards[0].plan.key.name
        self.ids: pa.Array = shards[0].rows.column(key).combine_chunks()
        assert all(shard.rows.column(key).combine_chunks().equals(self.ids) for shard in shards[1:]), "the same keys"
        self._project = project.encode()
        self._key = feast_format.key_piece(key, self.ids)
        self._columns = [
            column for shard in shards for column in feast_format.columns(shard.plan, shard.rows, shard.encoded)
        ]
        names = [column.field for column in self._columns]
        assert len(set(names)) == len(names), "hash fields of one generation have names of their own"

    def shapes(self) -> Iterator[tuple[Rows, tuple[int, ...]]]:
        """Rows of one shape: with the lengths of the key's and the values' stretches."""
        pieces = [self._key, *(piece for column in self._columns for piece in column.pieces)]
        return same_shape([piece.lengths_N for piece in pieces])

    def hset(self, lengths: Sequence[int]) -> list[Segment]:
        """The command that writes a row."""
        words = [word for column, value in self._values(lengths) for word in ([column.field], value)]
        return segments_of([b"HSET"], self._redis_key(lengths), *words)

    def hmget(self, lengths: Sequence[int]) -> list[Segment]:
        """The command that reads a row."""
        return segments_of([b"HMGET"], self._redis_key(lengths), *([column.field] for column in self._columns))

    def reply(self, lengths: Sequence[int]) -> list[Segment]:
        """What hmget is answered where the row is stored as written."""
        values = self._values(lengths)
        return [b"*%d\r\n" % len(values), *(segment for _, value in values for segment in _bulk(value))]

    def _redis_key(self, lengths: Sequence[int]) -> list[Segment]:
        return [*self._key.segments(lengths[0]), self._project]

    def _values(self, lengths: Sequence[int]) -> list[tuple[Column, list[Segment]]]:
        following = iter(lengths[1:])
        return [(column, column.value(following)) for column in self._columns]


def segments_of(*words: Sequence[Segment]) -> list[Segment]:
    """One command, each word of which may vary from row to row."""
    return [b"*%d\r\n" % len(words), *(segment for word in words for segment in _bulk(word))]


def _bulk(word: Sequence[Segment]) -> list[Segment]:
    size = sum(len(segment) if isinstance(segment, bytes) else segment[1] for segment in word)
    return [b"$%d\r\n" % size, *word, b"\r\n"]
