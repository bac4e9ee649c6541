"""Vectors of items, users and texts of events, read by the student, or by a plain sentence encoder as the placebo.

Row-wise: one batch of rows in, one batch of vectors out. What has been read before, in this run or any earlier one, is
taken from the kept vectors; the rest is read once, many batches' worth together where little is left of each.
"""

from collections.abc import Iterator

import pyarrow as pa

from msd_models.vector_reader import Reading, with_vectors
from msd_models.vector_texts import Read, UserReads, item_texts
from pipeline.config import Vectors
from pipeline.kept_vectors import KeptVectors
from pipeline.schemas import CONTEXT_VECTORS, ITEM_VECTORS, USER_VECTORS
from pipeline.storage import Dataset


def embed_items(
    batches: Iterator[pa.RecordBatch],
    config: Vectors,
    item_stats: Dataset,
    student: Dataset | None = None,
    kept: KeptVectors | None = None,
) -> Iterator[pa.RecordBatch]:
    """One vector per item, available from the time its text was known.

    Args:
        batches: of items.
        config: which encoder, and how it reads.
        item_stats: for first_seen_at.
        student: the distilled model; None reads with config.encoder.
        kept: what was read before.
    """
    seen = item_stats.table(["item_id", "first_seen_at"])
    row_of = {item: row for row, item in enumerate(seen.column("item_id").to_pylist())}
    first_seen = seen.column("first_seen_at").combine_chunks()
    reading = Reading(config=config, student=student, kept=kept, keep_end=False)
    for items, vectors, facts in with_vectors(((batch, item_texts(batch)) for batch in batches), reading):
        rows = pa.array([row_of[item] for item in items.column("item_id").to_pylist()], pa.int64())
        columns = {"item_id": items.column("item_id"), **vectors, "available_at": first_seen.take(rows)}
        yield pa.RecordBatch.from_pydict(columns, schema=ITEM_VECTORS).replace_schema_metadata(facts)


def embed_users(
    batches: Iterator[pa.RecordBatch],
    config: Vectors,
    items: Dataset,
    users: Dataset,
    student: Dataset | None = None,
    kept: KeptVectors | None = None,
) -> Iterator[pa.RecordBatch]:
    """One vector per user and embedded snapshot, read from the latest titles of the history up to it.

    Args:
        batches: of histories; rows whose is_embedded is false are left out.
        config: which encoder, and how it reads.
        items: for the titles.
        users: for the profiles.
        student: the distilled model; None reads with config.encoder.
        kept: what was read before.
    """
    reading = Reading(config=config, student=student, kept=kept, keep_end=True)
    for histories, vectors, facts in with_vectors(_embedded_rows(batches, config, items, users), reading):
        columns = {name: histories.column(name) for name in ("user_id", "snapshot_at")} | vectors
        yield pa.RecordBatch.from_pydict(columns, schema=USER_VECTORS).replace_schema_metadata(facts)


def embed_contexts(
    batches: Iterator[pa.RecordBatch],
    config: Vectors,
    student: Dataset | None = None,
    kept: KeptVectors | None = None,
) -> Iterator[pa.RecordBatch]:
    """One vector per distinct text of an event.

    Args:
        batches: of context_texts.
        config: which encoder, and how it reads.
        student: the distilled model; None reads with config.encoder.
        kept: what was read before.
    """
    reading = Reading(config=config, student=student, kept=kept, keep_end=False)
    rows = ((batch, batch.column("text").to_pylist()) for batch in batches)
    for texts, vectors, facts in with_vectors(rows, reading):
        columns = {"text_id": texts.column("text_id"), **vectors}
        yield pa.RecordBatch.from_pydict(columns, schema=CONTEXT_VECTORS).replace_schema_metadata(facts)


def _embedded_rows(
    batches: Iterator[pa.RecordBatch], config: Vectors, items: Dataset, users: Dataset
) -> Iterator[tuple[pa.RecordBatch, list[Read]]]:
    """Snapshots that get a vector, and what is read of them; titles and profiles are loaded for the first batch."""
    reads: UserReads | None = None
    for batch in batches:
        reads = reads or UserReads(config, items, users)
        embedded = batch.filter(batch.column("is_embedded"))
        yield embedded, reads.of(embedded)
