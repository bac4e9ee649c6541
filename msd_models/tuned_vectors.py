"""Vectors of the tuned student: the same texts, read the same way, in its own space.

How texts are read stands in the tuned student's manifest, which took it from the vectors it was tuned on.
"""

from collections.abc import Iterator
from dataclasses import fields

import pyarrow as pa

from msd_models import embed
from pipeline.config import TunedVectors, Vectors
from pipeline.kept_vectors import KeptVectors
from pipeline.storage import Dataset


def embed_items(
    batches: Iterator[pa.RecordBatch],
    config: TunedVectors,
    item_stats: Dataset,
    tuned_student: Dataset,
    kept: KeptVectors | None = None,
) -> Iterator[pa.RecordBatch]:
    """One vector per item: see msd_models.embed."""
    return embed.embed_items(batches, reading_of(config, tuned_student, "items"), item_stats, tuned_student, kept)


def embed_users(
    batches: Iterator[pa.RecordBatch],
    config: TunedVectors,
    items: Dataset,
    users: Dataset,
    tuned_student: Dataset,
    kept: KeptVectors | None = None,
) -> Iterator[pa.RecordBatch]:
    """One vector per user and embedded snapshot: see msd_models.embed."""
    return embed.embed_users(batches, reading_of(config, tuned_student, "users"), items, users, tuned_student, kept)


def embed_contexts(
    batches: Iterator[pa.RecordBatch], config: TunedVectors, tuned_student: Dataset, kept: KeptVectors | None = None
) -> Iterator[pa.RecordBatch]:
    """One vector per distinct text of an event, read as items are: see msd_models.embed."""
    return embed.embed_contexts(batches, reading_of(config, tuned_student, "items"), tuned_student, kept)


def reading_of(config: TunedVectors, tuned_student: Dataset, kind: str) -> Vectors:
    """How the tuned student reads `items` or `users`; what cannot change the result is config's own."""
    free = {setting.name: getattr(config, setting.name) for setting in fields(config)}
    return Vectors(**{**tuned_student.details["reading"][kind], **free})
