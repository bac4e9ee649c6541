"""Every boundary between stages as an Arrow schema, one sentence a column.

Spark and Feast types are derived from these and never written a second time; `docs/datasets.md` is generated from them.
Times are UTC microseconds. Ids are strings, whatever the source's type.
"""

import pyarrow as pa

TIME = pa.timestamp("us", tz="UTC")
ATTRIBUTES = pa.map_(pa.string(), pa.string())
VECTOR = pa.list_(pa.float32())

SPLITS = ("history", "train", "valid", "test")
"""`history` rows feed histories and are never a label: clicks known from before the log begins."""


def _column(name: str, kind: pa.DataType, sentence: str, *, nullable: bool = False) -> pa.Field:
    return pa.field(name, kind, nullable=nullable, metadata={"doc": sentence})


ITEMS = pa.schema(
    [
        _column("item_id", pa.string(), "The item's id, unique."),
        _column("title", pa.string(), "The first text column, trimmed: how prompts of users name the item."),
        _column("text", pa.string(), "All text columns joined in the source's order, one per line, trimmed."),
        _column("category", pa.string(), "Stratum of the prompt sample; `unknown` where the source has none."),
        _column("attributes", ATTRIBUTES, "The source's item attributes by name, as strings; missing ones left out."),
        _column(
            "available_at", TIME, "When the source says the text was known; null without a time column.", nullable=True
        ),
    ]
)

INTERACTIONS = pa.schema(
    [
        _column("event_id", pa.int64(), "Unique id, ordered by time, then by the source's row order."),
        _column("user_id", pa.string(), "Who acted."),
        _column("item_id", pa.string(), "On which item; every id stands in items."),
        _column("event_at", TIME, "When; without a time column, one second per row of the log from 1970 on."),
        _column("is_click", pa.int8(), "1 for a positive event, 0 for an impression without one."),
        _column("split", pa.string(), "history, train, valid or test."),
        _column("context", ATTRIBUTES, "Per-event features by name, such as the query or the device."),
    ]
)

USERS = pa.schema(
    [
        _column("user_id", pa.string(), "The user's id, unique; every user of interactions has a row."),
        _column("attributes", ATTRIBUTES, "The profile by name, as strings; empty where the source has none."),
    ]
)

ITEM_STATS = pa.schema(
    [
        _column("item_id", pa.string(), "The item; every item has a row."),
        _column("exposures", pa.int64(), "Events on the item in the training window."),
        _column("clicks", pa.int64(), "Positive events on the item in the training window."),
        _column("ctr_shrunk", pa.float64(), "Clicks per exposure, shrunk towards the category's rate."),
        _column(
            "category_ctr",
            pa.float64(),
            "Clicks per exposure of the item's category; the log's where it has no exposure.",
        ),
        _column("exposure_rank", pa.int64(), "1 for the most exposed item; ties broken by item_id."),
        _column(
            "first_seen_at",
            TIME,
            "When the item's text was known: items.available_at, else its first event, else the log's first event.",
        ),
        _column("counted_until", TIME, "End of the training window: from when on the counts may be used."),
    ]
)

USER_STATS = pa.schema(
    [
        _column("user_id", pa.string(), "The user; every user of interactions has a row."),
        _column("exposures", pa.int64(), "Events of the user in the training window."),
        _column("clicks", pa.int64(), "Positive events of the user in the training window."),
        _column("ctr_shrunk", pa.float64(), "Clicks per exposure, shrunk towards the log's rate."),
        _column("first_event_at", TIME, "The user's first event of the whole log."),
        _column(
            "last_event_at", TIME, "The last event in the training window; null where there is none.", nullable=True
        ),
        _column("counted_until", TIME, "End of the training window: from when on the counts may be used."),
    ]
)

HISTORIES = pa.schema(
    [
        _column("user_id", pa.string(), "Whose history."),
        _column("snapshot_at", TIME, "The cut: only events strictly before it are in the row."),
        _column("num_events", pa.int64(), "How many events the user had before the cut, before truncation."),
        _column("item_ids", pa.list_(pa.string()), "The last max_length items, oldest first."),
        _column("event_times", pa.list_(TIME), "When each happened."),
        _column("labels", pa.list_(pa.int8()), 'The label of each; all 1 with `events = "positive"`.'),
        _column(
            "is_embedded",
            pa.bool_(),
            "True where user_vectors embeds this snapshot (the history has grown by embed_growth since the last one).",
        ),
    ]
)

PROMPTS = pa.schema(
    [
        _column("prompt_id", pa.string(), "`item:<item_id>` or `user:<user_id>@<snapshot seconds>`."),
        _column("level", pa.string(), "item or user."),
        _column("entity_id", pa.string(), "The item_id or user_id."),
        _column("snapshot_at", TIME, "The user's snapshot; null for items.", nullable=True),
        _column("stratum", pa.string(), "Category of the item; history-length band of the user."),
        _column("text", pa.string(), "The item's text and attributes, or the user's profile and history."),
        _column(
            "representative_id",
            pa.string(),
            "prompt_id of the near-duplicate whose output this row gets; its own where it is read itself.",
        ),
        _column("teacher_text", pa.string(), "What the teacher reads: the text of the representative."),
        _column("inclusion_probability", pa.float64(), "Probability that the sample holds this row, in (0, 1]."),
    ]
)

TEACHER_OUTPUTS = pa.schema(
    [
        _column("prompt_id", pa.string(), "Of prompts."),
        _column("level", pa.string(), "item or user."),
        _column("entity_id", pa.string(), "The item_id or user_id."),
        _column("stratum", pa.string(), "Of prompts."),
        _column("text", pa.string(), "Of prompts: the row's own text."),
        _column("representative_id", pa.string(), "Of prompts: whose text the teacher read."),
        _column("status", pa.string(), "ok or rejected."),
        _column("reason", pa.string(), "Why a row was rejected after its last attempt; null when ok.", nullable=True),
        _column("rationale", pa.string(), "The teacher's chain of thought; empty when rejected."),
        _column("explicit_phrases", pa.list_(pa.string()), "Key phrases that can be read from the text."),
        _column("implicit_phrases", pa.list_(pa.string()), "Key phrases inferred by world knowledge."),
        _column("raw_text", pa.string(), "The last attempt's completion as generated."),
        _column("template_id", pa.string(), "Name and digest of the prompt template: `item.en@0123abcd`."),
        _column("reference_ids", pa.list_(pa.string()), "Which worked examples the prompt showed, in order."),
        _column("content_key", pa.string(), "Hash of all that the first attempt's completion depends on."),
        _column("attempts", pa.int32(), "Completions that were asked for; 0 where the prompt had no room."),
        _column(
            "prompt_tokens", pa.int32(), "Tokens of the prompts of all attempts; 0 where a representative's are used."
        ),
        _column(
            "output_tokens", pa.int32(), "Tokens of all attempts' completions; 0 where a representative's are used."
        ),
        _column("text_tokens_cut", pa.int32(), "Tokens of the text left out of the prompt for its length."),
        _column("moved_to_implicit", pa.int32(), "Phrases said to be explicit that do not occur in the text."),
        _column("moved_to_explicit", pa.int32(), "Phrases said to be implicit that the text states."),
        _column(
            "unrelated_phrases", pa.int32(), "Phrases dropped: no part of the text is near, or copied from an example."
        ),
        _column("repeated_phrases", pa.int32(), "Phrases dropped: said before."),
    ]
)

ITEM_VECTORS = pa.schema(
    [
        _column("item_id", pa.string(), "The item."),
        _column("vector", VECTOR, "Pooled hidden states, float32, one length for the whole table."),
        _column("space_id", pa.string(), "Hash of everything that defines the vector space."),
        _column("content_hash", pa.string(), "SHA-256 (16 hex digits) of the text the encoder read."),
        _column("available_at", TIME, "item_stats.first_seen_at: when the vector could have been known."),
    ]
)

USER_VECTORS = pa.schema(
    [
        _column("user_id", pa.string(), "The user."),
        _column("snapshot_at", TIME, "The cut of the history that was read; also when the vector could be known."),
        _column("vector", VECTOR, "Pooled hidden states, float32, one length for the whole table."),
        _column("space_id", pa.string(), "Hash of everything that defines the vector space."),
        _column("content_hash", pa.string(), "SHA-256 (16 hex digits) of the text the encoder read."),
    ]
)

CONTEXT_TEXTS = pa.schema(
    [
        _column("text_id", pa.string(), "SHA-256 (16 hex digits) of the text as events have it, unique."),
        _column(
            "text", pa.string(), "A distinct value of the source's text_context columns, such as a query; cut if long."
        ),
        _column("num_events", pa.int64(), "Events that carry it, in all splits."),
    ]
)

CONTEXT_VECTORS = pa.schema(
    [
        _column("text_id", pa.string(), "Of context_texts."),
        _column("vector", VECTOR, "Pooled hidden states, float32, one length for the whole table."),
        _column("space_id", pa.string(), "Hash of everything that defines the vector space."),
        _column("content_hash", pa.string(), "SHA-256 (16 hex digits) of the text the encoder read."),
    ]
)

EXAMPLES = pa.schema(
    [
        _column("event_id", pa.int64(), "Of interactions."),
        _column("user_id", pa.string(), "Of interactions."),
        _column("item_id", pa.string(), "Of interactions."),
        _column("event_at", TIME, "Of interactions."),
        _column("is_click", pa.int8(), "The label."),
        _column("split", pa.string(), "train, valid or test."),
        _column("context", ATTRIBUTES, "Of interactions."),
        _column(
            "item_vector_row",
            pa.int64(),
            "Row of item_features' vectors.npy as of event_at; null where the item had no vector yet.",
            nullable=True,
        ),
        _column(
            "user_vector_row",
            pa.int64(),
            "Row of user_features' vectors.npy as of event_at; null where the user had no vector yet.",
            nullable=True,
        ),
        _column(
            "history_row",
            pa.int64(),
            "Row of histories as of event_at; null where the user had no history yet.",
            nullable=True,
        ),
    ]
)

AUDIT = pa.schema(
    [
        _column("event_id", pa.int64(), "The example whose features know its future."),
        _column("user_id", pa.string(), "Of the example."),
        _column("item_id", pa.string(), "Of the example."),
        _column("event_at", TIME, "Of the example: nothing behind it may be from this moment on."),
        _column("split", pa.string(), "Of the example."),
        _column("leak", pa.string(), "history, user_vector, item_vector, prompt, frequency or split."),
        _column("known_at", TIME, "When what leaked happened or became known; null where unknown.", nullable=True),
        _column("evidence", pa.string(), "What was found, in one sentence."),
    ]
)

REJECTED = pa.schema(
    [
        _column("source_row", pa.string(), "The row as it was read, as JSON."),
        _column("reason", pa.string(), "Why it was left out, in a few words; counted in the manifest."),
    ]
)


def describe(schema: pa.Schema) -> list[tuple[str, str, str]]:
    """(name, type, sentence) of each column."""
    rows = []
    for field in schema:
        kind = str(field.type) + ("" if not field.nullable else ", may be null")
        rows.append((field.name, kind, (field.metadata or {}).get(b"doc", b"").decode()))
    return rows
