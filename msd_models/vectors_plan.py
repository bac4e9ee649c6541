"""What a table of vectors would cost: rows, texts that are not kept yet, their tokens, seconds at this machine's pace.

The texts are rendered and hashed as the stage does it; of a large table an evenly spaced part stands for the rest.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from msd_models.behaviours import Behaviours
from msd_models.encoders import TextEncoder
from msd_models.pace import Pace, known_pace, weights_bytes
from msd_models.tuned_vectors import reading_of
from msd_models.vector_reader import Reading, read_with
from msd_models.vector_texts import Read, UserReads, content_of, item_texts
from pipeline.config import TunedVectors, Vectors
from pipeline.errors import StageError
from pipeline.estimate import Estimate
from pipeline.job import Job
from pipeline.storage import Dataset
from pipeline.vector_store import keys_of

BATCH_ROWS = 4096
LOOKED_AT_ROWS = 65_536
TOKENISED_TEXTS = 2000
MEASURED_TEXTS = 128
"""In each of two calls, the first of which loads the model."""


@dataclass(kw_only=True)
class _Looked:
    """What was found in the rows that were looked at."""

    rows: int = 0
    with_vector: int = 0
    missing: dict[bytes, Read]
    """Distinct texts that are not kept, by key."""


def estimate(job: Job, *, measure: bool = False) -> Estimate:
    """The work that is left of a table of vectors.

    Args:
        job: whose inputs are committed.
        measure: where this machine's pace is unknown, read a few texts to learn it; they are kept.

    Raises:
        StageError: an input is not made yet.
    """
    missing = [name for name, dataset in job.inputs.items() if dataset.manifest is None]
    if missing:
        raise StageError(f"{job.stage.name} reads {', '.join(missing)}, not made yet; run: msd run {' '.join(missing)}")
    student = job.inputs.get("student") or job.inputs.get("tuned_student")
    with job.open_kept() as kept:
        config = _config_of(job, student)
        reading = Reading(config=config, student=student, kept=kept, keep_end=job.stage.inputs[0] == "histories")
        encoder = reading.encoder()
        looked = _look(job, reading, encoder)
        size = weights_bytes(config, student)
        pace = known_pace(kept, encoder.space_id, size)
        if pace is None and measure and looked.missing:
            pace = _measured(reading, encoder, looked, size)
        tokens, told = _tokens_each(list(looked.missing.values()), encoder, keep_end=reading.keep_end)
    return _estimate(job, looked, encoder.dimension, (tokens, told), pace)


def _estimate(job: Job, looked: _Looked, dimension: int, sampled: tuple[float, str], pace: Pace | None) -> Estimate:
    tokens_each, told = sampled
    share = looked.rows / job.rows_in if job.rows_in else 1.0
    left = round(len(looked.missing) / share)
    tokens, processes = round(left * tokens_each), max(job.config.processes, 1)
    notes = [f"left: distinct texts that are not among the kept vectors; {told}"]
    if share < 1:
        notes.append(f"left: {looked.rows:,} evenly spaced rows were looked at; a text they share counts once")
    seconds = None
    if pace is None and left:
        notes.append(f"seconds: not known yet on this machine; msd plan {job.stage.name} --measure reads a few texts")
    elif not left:
        seconds = 0.0
    elif pace is not None:
        rate = pace.tokens / max(pace.seconds, 1e-9)
        seconds = pace.load_seconds + tokens / rate / processes
        notes.append(f"seconds: {pace.load_seconds:.0f} to load, then {rate:,.0f} tokens a second in each process")
    return Estimate(
        rows=job.rows_in,
        rows_left=left,
        prompt_tokens=tokens,
        output_tokens=0,
        seconds=seconds,
        bytes=round(looked.with_vector / share) * dimension * 4,
        notes=tuple(notes),
    )


def _config_of(job: Job, student: Dataset | None) -> Vectors:
    if not isinstance(job.config, TunedVectors):
        return job.config
    assert student is not None
    return reading_of(job.config, student, "users" if job.stage.inputs[0] == "histories" else "items")


def _look(job: Job, reading: Reading, encoder: TextEncoder) -> _Looked:
    store = reading.store(encoder)
    assert store is not None
    looked = _Looked(missing={})
    for num_rows, reads in _reads_of(job, reading.config):
        keys = keys_of(content_of(read) for read in reads)
        looked.rows += num_rows
        looked.with_vector += len(reads)
        for place in np.flatnonzero(~store.holds(keys)):
            looked.missing.setdefault(keys[place].tobytes(), reads[place])
    return looked


def _reads_of(job: Job, config: Vectors) -> Iterator[tuple[int, Sequence[Read]]]:
    """Rows and what they are read as, of all batches or of evenly spaced ones."""
    first = job.stage.inputs[0]
    users = UserReads(config, job.inputs["items"], job.inputs["users"]) if first == "histories" else None
    for batch in _batches(job.inputs[first], job.rows_in):
        if users is not None:
            yield batch.num_rows, users.of(batch.filter(batch.column("is_embedded")))
        else:
            yield batch.num_rows, item_texts(batch) if first == "items" else batch.column("text").to_pylist()


def _batches(dataset: Dataset, rows: int) -> Iterator[pa.RecordBatch]:
    if rows <= LOOKED_AT_ROWS:
        yield from dataset.batches(BATCH_ROWS)
        return
    for start in np.linspace(0, rows - BATCH_ROWS, LOOKED_AT_ROWS // BATCH_ROWS, dtype=int):
        yield next(dataset.batches(BATCH_ROWS, first_row=int(start)))


def _tokens_each(missing: list[Read], encoder: TextEncoder, *, keep_end: bool) -> tuple[float, str]:
    """(tokens of a text on average, how the figure came about)."""
    sample = missing[:: max(-(-len(missing) // TOKENISED_TEXTS), 1)]
    texts = [text for read in sample for text in (read.texts() if isinstance(read, Behaviours) else [read])]
    if not texts:
        return 0.0, "nothing is left to be read"
    distinct = list(dict.fromkeys(texts))
    tokens = sum(encoder.count_tokens(distinct, keep_end=keep_end and len(texts) == len(sample)))
    return tokens / len(sample), f"tokens: the tokenizer's, on {len(sample):,} of them, with the words around each"


def _measured(reading: Reading, encoder: TextEncoder, looked: _Looked, size: int) -> Pace | None:
    """Reads two small lots of the missing texts, which are kept; None where there is but one lot of them."""
    pace, store, kept = Pace(weights_bytes=size), reading.store(encoder), reading.kept
    assert store is not None
    assert kept is not None
    for _ in range(2):
        keys = list(looked.missing)[:MEASURED_TEXTS]
        reads: list[Any] = [looked.missing.pop(key) for key in keys]
        if reads:
            vectors = read_with(encoder, reads, keep_end=reading.keep_end, pace=pace)
            store.add(np.array(keys, dtype="S16"), vectors)
    encoder.close()
    pace.note(kept, encoder.space_id)
    return pace if pace.tokens else None
