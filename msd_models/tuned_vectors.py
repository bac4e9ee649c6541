"""Vectors of the tuned student: the same texts, read the same way, in its own space.

How texts are read stands in the tuned student's manifest, which took it from the vectors it was tuned on.
"""

from collections.abc import Iterator

import pyarrow as pa

from msd_models import embed
from pipeline.config import TunedVectors, Vectors
from pipeline.storage import Dataset


def embed_items(
    batches: Iterator[pa.RecordBatch], config: TunedVectors, item_stats: Dataset, tuned_student: Dataset
) -> Iterator[pa.RecordBatch]:
    """One vector per item: see msd_models.embed."""
    return embed.embed_items(batches, _reading(config, tuned_student, "items"), item_stats, tuned_student)


def embed_users(
    batches: Iterator[pa.RecordBatch], config: TunedVectors, items: Dataset, users: Dataset, tuned_student: Dataset
) -> Iterator[pa.RecordBatch]:
    """One vector per user and embedded snapshot: see msd_models.embed."""
    return embed.embed_users(batches, _reading(config, tuned_student, "users"), items, users, tuned_student)


def embed_contexts(
    batches: Iterator[pa.RecordBatch], config: TunedVectors, tuned_student: Dataset
) -> Iterator[pa.RecordBatch]:
    """One vector per distinct text of an event, read as items are: see msd_models.embed."""
    return embed.embed_contexts(batches, _reading(config, tuned_student, "items"), tuned_student)


def _reading(config: TunedVectors, tuned_student: Dataset, kind: str) -> Vectors:
    taken = tuned_student.details["reading"][kind]
    return Vectors(**{**taken, "shard_rows": config.shard_rows, "batch_tokens": config.batch_tokens})
