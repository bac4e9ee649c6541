"""The texts that Python workers make, row by row, for prompts and for the audit.

A worker imports this file before its first row, so that it imports no Spark: with `spark_jobs.prompts` in its place,
and all that this needs, each worker took 0.9 s of processor time to begin and takes a quarter of that.
"""

from collections.abc import Iterator

import pyarrow as pa

from pipeline import schemas, texts

SAMPLED = pa.schema([field for field in schemas.PROMPTS if field.name not in ("representative_id", "teacher_text")])
"""What is known of a row of prompts before near-duplicates are."""
RENDERED = pa.schema(
    [
        pa.field("user_id", pa.string()),
        pa.field("snapshot_at", schemas.TIME),
        pa.field("true_text", pa.string()),
        pa.field("last_shown_at", schemas.TIME),
        pa.field("last_judged_at", schemas.TIME),
    ]
)
"""A snapshot, the text that the events before it make, and when the last events it shows happened."""


def with_item_text(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Rows of SAMPLED, of items with their `text` and `attributes`."""
    for batch in batches:
        rows = zip(batch["text"].to_pylist(), batch["attributes"].to_pylist(), strict=True)
        yield _prompts(batch, [texts.item_text(text, dict(attributes)) for text, attributes in rows])


def with_user_text(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Rows of SAMPLED, of users with `attributes`, and `titles` and `labels` of their events."""
    for batch in batches:
        columns = (batch[name].to_pylist() for name in ("attributes", "titles", "labels"))
        rows = zip(*columns, strict=True)
        yield _prompts(batch, [texts.user_text(dict(profile), titles, labels) for profile, titles, labels in rows])


def with_true_text(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Rows of RENDERED, of snapshots with `attributes`, `titles` and `labels`, each null where nothing is known."""
    for batch in batches:
        columns = (batch[name].to_pylist() for name in ("attributes", "titles", "labels"))
        read = [
            texts.user_text(dict(profile or ()), [title or "" for title in titles or ()], labels or ())
            for profile, titles, labels in zip(*columns, strict=True)
        ]
        made = {**{name: batch[name] for name in batch.schema.names}, "true_text": pa.array(read, pa.string())}
        yield pa.RecordBatch.from_arrays(
            [made[name].cast(RENDERED.field(name).type) for name in RENDERED.names], schema=RENDERED
        )


def _prompts(batch: pa.RecordBatch, read: list[str]) -> pa.RecordBatch:
    made = {**{name: batch[name] for name in batch.schema.names}, "text": pa.array(read, pa.string())}
    return pa.RecordBatch.from_pydict({name: made[name] for name in SAMPLED.names})
