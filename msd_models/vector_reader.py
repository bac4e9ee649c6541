"""Texts to the columns of a vector table: kept vectors where a text was read before, the encoder for the rest.

Rows come in batches, one a shard. Batches of which most is kept are gathered until about a shard's worth of texts is
missing, so that a catalogue with one changed item in a hundred is read in full forward passes and not in a hundred
small ones; a killed run loses that much at most.
"""

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from msd_models.behaviours import Behaviours
from msd_models.encoders import TextEncoder, make_encoder
from msd_models.pace import Pace, weights_bytes
from msd_models.vector_texts import Read, content_of
from pipeline.config import Vectors
from pipeline.errors import ConfigError, StageError
from pipeline.kept_vectors import KeptVectors
from pipeline.rows import FACTS
from pipeline.storage import Dataset
from pipeline.vector_store import VectorStore, content_hashes, keys_of

# N rows of a batch, U distinct texts of it, M of those missing, D dimensions

VERSION = 1
"""Raised when the code changes which vector a text has; part of the name of the folder it is kept in."""
HELD_BYTES = 2**28
"""Vectors of gathered batches in memory."""


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How rows are read, and where what was read is kept."""

    config: Vectors
    student: Dataset | None
    """None reads with config.encoder."""
    kept: KeptVectors | None
    """None keeps nothing between batches."""
    keep_end: bool
    """Of a long text the end is read instead of the beginning."""

    def encoder(self) -> TextEncoder:
        """Loads no weights yet."""
        return make_encoder(self.config, self.student)

    def store(self, encoder: TextEncoder) -> VectorStore | None:
        """The kept vectors of the encoder's space that were read in this way."""
        if self.kept is None:
            return None
        way = "histories" if self.keep_end and self.config.mode == "behaviours" else _end_of(self.keep_end)
        return self.kept.store(encoder.space_id, f"{encoder.reading}-{way}-{VERSION}", encoder.dimension)


class Embedded(NamedTuple):
    """A batch of rows with what the encoder has to say of it."""

    rows: pa.RecordBatch
    vectors: dict[str, pa.Array]
    """The columns vector, space_id and content_hash."""
    facts: dict[bytes, bytes]
    """Schema metadata of the batch that is made of them: see pipeline.rows."""


@dataclass
class _Held:
    """A batch whose vectors are not complete yet."""

    rows: pa.RecordBatch
    reads: Sequence[Read]
    keys_U: np.ndarray
    first_U: np.ndarray
    """A row that has the text."""
    text_N: np.ndarray
    """Which of the distinct texts a row has."""
    vectors_UD: np.ndarray
    missing_M: np.ndarray
    facts: dict[str, float]


def with_vectors(batches: Iterator[tuple[pa.RecordBatch, Sequence[Read]]], reading: Reading) -> Iterator[Embedded]:
    """Each batch with its vectors.

    Args:
        batches: rows, and what each row is read as.
        reading: by which encoder; none is made where there is no batch.
    """
    reader: _Reader | None = None
    try:
        held: list[_Held] = []
        for rows, reads in batches:
            reader = reader or _Reader(reading)
            held.append(reader.looked_up(rows, reads))
            if reader.is_enough(held):
                yield from reader.completed(held)
                held = []
        if reader is not None:
            yield from reader.completed(held)
    finally:
        if reader is not None:
            reader.close()


def read_with(encoder: TextEncoder, reads: Sequence[Read], *, keep_end: bool, pace: Pace) -> np.ndarray:
    """Vectors [N, D] in float32 of texts or of behaviours; says how long it took.

    Raises:
        StageError: the encoder gave numbers that are none, which must not be kept.
    """
    if not reads:
        return np.zeros((0, encoder.dimension), dtype=np.float32)
    started, tokens = time.monotonic(), encoder.tokens_read
    histories = [read for read in reads if isinstance(read, Behaviours)]
    texts = [read for read in reads if isinstance(read, str)]
    assert not (texts and histories), "a stage reads texts or behaviours, not both"
    vectors_ND = encoder.encode_histories(histories) if histories else encoder.encode(texts, keep_end=keep_end)
    pace.add(encoder.tokens_read - tokens, time.monotonic() - started)
    _check_finite(vectors_ND, reads)
    return vectors_ND


class _Reader:
    def __init__(self, reading: Reading) -> None:
        self.reading = reading
        self.encoder = reading.encoder()
        _check_size(reading.config.shard_rows, self.encoder.dimension)
        self.store = reading.store(self.encoder)
        self.pace = Pace(weights_bytes=weights_bytes(reading.config, reading.student))

    def close(self) -> None:
        """Frees the model and notes how fast it was."""
        self.encoder.close()
        if self.reading.kept is not None:
            self.pace.note(self.reading.kept, self.encoder.space_id)

    def looked_up(self, rows: pa.RecordBatch, reads: Sequence[Read]) -> _Held:
        """The batch with what is kept of it."""
        keys_U, first_U, text_N = np.unique(
            keys_of(content_of(read) for read in reads), return_index=True, return_inverse=True
        )
        if self.store is not None:
            found = self.store.find(keys_U)
            vectors_UD, missing_M = found.vectors_ND, np.flatnonzero(~found.is_found_N)
        else:
            vectors_UD = np.zeros((len(keys_U), self.encoder.dimension), dtype=np.float32)
            missing_M = np.arange(len(keys_U))
        return _Held(rows, reads, keys_U, first_U, text_N, vectors_UD, missing_M, {"texts": len(keys_U)})

    def is_enough(self, held: Sequence[_Held]) -> bool:
        """Whether the batches lack half a shard's texts, or are as many as memory should hold."""
        num_missing = sum(len(batch.missing_M) for batch in held)
        return 2 * num_missing >= self.reading.config.shard_rows or (
            sum(batch.vectors_UD.nbytes for batch in held) >= HELD_BYTES
        )

    def completed(self, held: Sequence[_Held]) -> Iterator[Embedded]:
        """The batches with all their vectors."""
        if held:
            self._read_missing(held)
        for batch in held:
            yield Embedded(batch.rows, self._columns(batch), {FACTS: json.dumps(batch.facts).encode()})

    def _read_missing(self, held: Sequence[_Held]) -> None:
        """Fills in the vectors that are not kept; a text that several batches lack is read for the first of them."""
        missing = [batch.keys_U[batch.missing_M] for batch in held]
        reads = [batch.reads[row] for batch in held for row in batch.first_U[batch.missing_M]]
        keys_M, first_M = np.unique(np.concatenate(missing), return_index=True)
        chosen, tokens, started = [reads[place] for place in first_M], self.encoder.tokens_read, time.monotonic()
        vectors_MD = read_with(self.encoder, chosen, keep_end=self.reading.keep_end, pace=self.pace)
        seconds = time.monotonic() - started
        if self.store is not None:
            vectors_MD = self.store.add(keys_M, vectors_MD)
        start = 0
        for batch, keys in zip(held, missing, strict=True):
            batch.vectors_UD[batch.missing_M] = vectors_MD[np.searchsorted(keys_M, keys)]
            batch.facts["texts_read"] = int(((first_M >= start) & (first_M < start + len(keys))).sum())
            start += len(keys)
        held[0].facts |= {"tokens_read": self.encoder.tokens_read - tokens, "reading_seconds": round(seconds, 3)}

    def _columns(self, batch: _Held) -> dict[str, pa.Array]:
        vectors_ND = batch.vectors_UD[batch.text_N]
        offsets = np.arange(len(vectors_ND) + 1, dtype=np.int32) * self.encoder.dimension
        hashes = np.array(content_hashes(batch.keys_U), dtype=object)
        return {
            "vector": pa.ListArray.from_arrays(pa.array(offsets), pa.array(vectors_ND.reshape(-1))),
            "space_id": pa.repeat(pa.scalar(self.encoder.space_id, pa.string()), len(vectors_ND)),
            "content_hash": pa.array(hashes[batch.text_N], pa.string()),
        }


def _end_of(keep_end: bool) -> str:
    return "end" if keep_end else "start"


def _check_finite(vectors_ND: np.ndarray, reads: Sequence[Read]) -> None:
    bad_N = ~np.isfinite(vectors_ND).all(axis=1)
    if bad_N.any():
        first = content_hashes(keys_of([content_of(reads[int(np.argmax(bad_N))])]))[0]
        raise StageError(
            f"the encoder gave NaN or infinity for {bad_N.sum():,} of {len(reads):,} texts, the first with content hash"
            f" {first}; none of them was kept; read with dtype=float32, or see whether the student's weights are whole"
        )


def _check_size(shard_rows: int, dimension: int) -> None:
    if shard_rows * dimension >= 2**31:
        raise ConfigError(
            f"a shard of {shard_rows:,} vectors of length {dimension:,} is too large for one table; set shard_rows to"
            f" {2**30 // dimension:,} or less"
        )
