"""Vectors of items, users and texts of events, read by the student, or by a plain sentence encoder as the placebo.

Row-wise: one batch of rows in, one batch of vectors out. Inside a batch, identical texts are read once and rows are
sorted by length, so that a forward pass carries little padding.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from msd_models.encoders import TextEncoder, make_encoder
from pipeline.config import Vectors
from pipeline.schemas import CONTEXT_VECTORS, ITEM_VECTORS, USER_VECTORS
from pipeline.storage import Dataset
from pipeline.texts import item_text, text_id, user_text


def embed_items(
    batches: Iterator[pa.RecordBatch],
    config: Vectors,
    item_stats: Dataset,
    student: Dataset | None = None,
) -> Iterator[pa.RecordBatch]:
    """One vector per item, available from the time its text was known.

    Args:
        batches: of items.
        config: which encoder, and how it reads.
        item_stats: for first_seen_at.
        student: the distilled model; None reads with config.encoder.
    """
    encoder: TextEncoder | None = None
    first_seen = _column_by_id(item_stats, "item_id", "first_seen_at")
    for batch in batches:
        encoder = encoder or make_encoder(config, student)
        attributes = [dict(pairs or ()) for pairs in batch.column("attributes").to_pylist()]
        texts = [item_text(t, a) for t, a in zip(batch.column("text").to_pylist(), attributes, strict=True)]
        found = pc.index_in(batch.column("item_id"), first_seen[0])
        columns = {
            "item_id": batch.column("item_id"),
            **_encoded(encoder, texts, keep_end=False),
            "available_at": first_seen[1].take(found),
        }
        yield pa.RecordBatch.from_pydict(columns, schema=ITEM_VECTORS)


def embed_users(
    batches: Iterator[pa.RecordBatch],
    config: Vectors,
    items: Dataset,
    users: Dataset,
    student: Dataset | None = None,
) -> Iterator[pa.RecordBatch]:
    """One vector per user and embedded snapshot, read from the latest titles of the history up to it.

    Args:
        batches: of histories; rows whose is_embedded is false are left out.
        config: which encoder, and how it reads.
        items: for the titles.
        users: for the profiles.
        student: the distilled model; None reads with config.encoder.
    """
    encoder: TextEncoder | None = None
    titles: dict[str, str] = {}
    profiles: dict[str, Mapping[str, str]] = {}
    for batch in batches:
        if encoder is None:
            encoder = make_encoder(config, student)
            titles = dict(zip(*_column_lists(items, "item_id", "title"), strict=True))
            ids, attributes = _column_lists(users, "user_id", "attributes")
            profiles = {user: dict(pairs or ()) for user, pairs in zip(ids, attributes, strict=True)}
        embedded = batch.filter(batch.column("is_embedded"))
        rows = embedded.select(["user_id", "item_ids", "labels"]).to_pylist()
        texts = [history_text(row, titles, profiles, config.history_titles) for row in rows]
        columns = {
            "user_id": embedded.column("user_id"),
            "snapshot_at": embedded.column("snapshot_at"),
            **_encoded(encoder, texts, keep_end=True),
        }
        yield pa.RecordBatch.from_pydict(columns, schema=USER_VECTORS)


def embed_contexts(
    batches: Iterator[pa.RecordBatch], config: Vectors, student: Dataset | None = None
) -> Iterator[pa.RecordBatch]:
    """One vector per distinct text of an event.

    Args:
        batches: of context_texts.
        config: which encoder, and how it reads.
        student: the distilled model; None reads with config.encoder.
    """
    encoder: TextEncoder | None = None
    for batch in batches:
        encoder = encoder or make_encoder(config, student)
        texts: list[str] = batch.column("text").to_pylist()
        columns = {"text_id": batch.column("text_id"), **_encoded(encoder, texts, keep_end=False)}
        yield pa.RecordBatch.from_pydict(columns, schema=CONTEXT_VECTORS)


def history_text(
    row: Mapping[str, Any], titles: Mapping[str, str], profiles: Mapping[str, Mapping[str, str]], num_titles: int
) -> str:
    """What a user is read as: the profile and the latest titles of a row of histories.

    Args:
        row: user_id, item_ids and labels.
        titles: of the items.
        profiles: of the users.
        num_titles: of the history, the latest ones.
    """
    shown = row["item_ids"][-num_titles:] if num_titles else []
    labels = row["labels"][-num_titles:] if num_titles else []
    return user_text(profiles.get(row["user_id"], {}), [titles[item] for item in shown], labels)


def _encoded(encoder: TextEncoder, texts: list[str], *, keep_end: bool) -> dict[str, pa.Array]:
    """The columns vector, space_id and content_hash; each distinct text is read once."""
    distinct = list(dict.fromkeys(texts))
    number = {text: position for position, text in enumerate(distinct)}
    vectors_ND = encoder.encode(distinct, keep_end=keep_end)[[number[text] for text in texts]]
    offsets = np.arange(len(texts) + 1, dtype=np.int32) * encoder.dimension
    values = pa.array(np.ascontiguousarray(vectors_ND, dtype=np.float32).reshape(-1))
    hashes = {text: text_id(text) for text in distinct}
    return {
        "vector": pa.ListArray.from_arrays(pa.array(offsets), values),
        "space_id": pa.array([encoder.space_id] * len(texts), pa.string()),
        "content_hash": pa.array([hashes[text] for text in texts], pa.string()),
    }


def _column_by_id(dataset: Dataset, key: str, value: str) -> tuple[pa.Array, pa.Array]:
    table = dataset.table([key, value]).combine_chunks()
    return _one_chunk(table.column(key)), _one_chunk(table.column(value))


def _one_chunk(column: pa.ChunkedArray) -> pa.Array:
    return column.chunk(0) if column.num_chunks == 1 else pa.concat_arrays(column.chunks)


def _column_lists(dataset: Dataset, *names: str) -> list[list[Any]]:
    table = dataset.table(list(names))
    return [table.column(name).to_pylist() for name in names]
