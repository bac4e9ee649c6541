"""Vectors: against a plain one-row-at-a-time forward, and what must not change them."""

from dataclasses import replace
from datetime import timedelta

import numpy as np
import pyarrow as pa
import pytest
import torch

from msd_models.embed import embed_contexts, embed_items, embed_users
from msd_models.encoders import StudentEncoder, make_encoder
from msd_models.language_model import load_causal, load_tokenizer
from msd_models.student_prompt import CUE, INSTRUCTION, plain_ids
from pipeline import schemas
from pipeline.config import TextVectors, Vectors
from pipeline.errors import ConfigError
from pipeline.texts import item_text, text_id, user_text

FLOAT32 = Vectors(dtype="float32", pooling="mean")
TEXTS = ["gliders 0", "drums and more 1\ncolour: blue", "x " * 300, "", "naïve ✓ 漢字", "<|end|> drums"]


def plain_vectors(student, texts, max_tokens=128):
    """One row at a time, whole model with its head, no padding."""
    folder = student.folder / "model"
    tokenizer, model = load_tokenizer(folder), load_causal(folder, torch.float32)
    before, after = plain_ids(tokenizer, INSTRUCTION), plain_ids(tokenizer, CUE)
    vectors = []
    for text in texts:
        room = max_tokens - len(before) - len(after)
        ids = torch.tensor([before + plain_ids(tokenizer, text)[:room] + after])
        with torch.no_grad():
            states = model(input_ids=ids, output_hidden_states=True).hidden_states[-1]
        vectors.append(states[0, len(before) :].mean(dim=0).numpy())
    return np.stack(vectors)


def cosines(one, other):
    return (one * other).sum(1) / np.linalg.norm(one, axis=1) / np.linalg.norm(other, axis=1)


def test_vectors_equal_a_plain_forward(student):
    made = StudentEncoder(student, FLOAT32).encode(TEXTS, keep_end=False)
    np.testing.assert_allclose(made, plain_vectors(student, TEXTS), atol=2e-5)
    assert made.dtype == np.float32


def test_bfloat16_stays_close(student):
    made = StudentEncoder(student, replace(FLOAT32, dtype="bfloat16")).encode(TEXTS, keep_end=False)
    assert cosines(made, plain_vectors(student, TEXTS)).min() > 0.999


@pytest.mark.parametrize("budget", [1, 70, 100_000])
def test_batching_and_padding_change_nothing(student, budget):
    whole = StudentEncoder(student, FLOAT32).encode(TEXTS, keep_end=False)
    other = StudentEncoder(student, replace(FLOAT32, batch_tokens=budget))
    np.testing.assert_allclose(other.encode(TEXTS, keep_end=False), whole, atol=2e-5)
    np.testing.assert_allclose(other.encode(TEXTS[::-1], keep_end=False)[::-1], whole, atol=2e-5)


def test_last_pooling_is_the_state_that_ends_the_prompt(student):
    last = StudentEncoder(student, replace(FLOAT32, pooling="last")).encode(["drums 1", "x " * 40], keep_end=False)
    folder = student.folder / "model"
    tokenizer, model = load_tokenizer(folder), load_causal(folder, torch.float32)
    ids = torch.tensor(
        [plain_ids(tokenizer, INSTRUCTION) + plain_ids(tokenizer, "drums 1") + plain_ids(tokenizer, CUE)]
    )
    with torch.no_grad():
        wanted = model(input_ids=ids, output_hidden_states=True).hidden_states[-1][0, -1].numpy()
    np.testing.assert_allclose(last[0], wanted, atol=2e-5)


def test_items_come_back_in_order_with_their_times(student, items, item_stats, item_rows):
    made = list(embed_items(items.batches(20), FLOAT32, item_stats, student))
    assert [batch.num_rows for batch in made] == [20, 20, 8]
    table = pa.Table.from_batches(made)
    assert table.schema.equals(schemas.ITEM_VECTORS)
    assert table.column("item_id").to_pylist() == [row["item_id"] for row in item_rows]
    seen = dict(zip(*(item_stats.table().column(n).to_pylist() for n in ("item_id", "first_seen_at")), strict=True))
    assert table.column("available_at").to_pylist() == [seen[row["item_id"]] for row in item_rows]
    texts = [item_text(row["text"], dict(row["attributes"])) for row in item_rows]
    np.testing.assert_allclose(np.stack(table.column("vector").to_pylist()), plain_vectors(student, texts), atol=2e-5)
    assert len(set(table.column("space_id").to_pylist())) == 1


@pytest.fixture(scope="module")
def history_rows(item_rows, item_stats):
    start = item_stats.table().column("first_seen_at").to_pylist()[0]
    ids = [row["item_id"] for row in item_rows]
    return [
        {
            "user_id": f"u{number % 5}",
            "snapshot_at": start + timedelta(days=number),
            "num_events": number,
            "item_ids": ids[:number],
            "event_times": [start] * number,
            "labels": [event % 2 for event in range(number)],
            "is_embedded": number % 3 != 0,
        }
        for number in range(2, 14)
    ]


def test_users_are_read_from_the_latest_titles_of_embedded_snapshots(save, student, items, item_rows, history_rows):
    users = save("users", schemas.USERS, [{"user_id": f"u{n}", "attributes": [("age", "30")]} for n in range(4)])
    histories = save("histories", schemas.HISTORIES, history_rows)
    made = list(embed_users(histories.batches(5), replace(FLOAT32, history_titles=3), items, users, student))
    wanted = [row for row in history_rows if row["is_embedded"]]
    assert len(made) == 3
    table = pa.Table.from_batches(made)
    assert table.column("snapshot_at").to_pylist() == [row["snapshot_at"] for row in wanted]
    titles = {row["item_id"]: row["title"] for row in item_rows}
    profiles = {f"u{n}": {"age": "30"} for n in range(4)}
    texts = [
        user_text(profiles.get(row["user_id"], {}), [titles[i] for i in row["item_ids"][-3:]], row["labels"][-3:])
        for row in wanted
    ]
    np.testing.assert_allclose(np.stack(table.column("vector").to_pylist()), plain_vectors(student, texts), atol=2e-5)


def test_a_batch_without_embedded_snapshots_is_empty_not_missing(save, student, items, history_rows):
    users = save("users", schemas.USERS, [])
    skipped = [{**row, "is_embedded": False} for row in history_rows[:4]]
    histories = save("histories", schemas.HISTORIES, skipped)
    made = list(embed_users(histories.batches(2), FLOAT32, items, users, student))
    assert [batch.num_rows for batch in made] == [0, 0]


def test_texts_of_events_are_read_into_the_space_of_the_items(save, student, items, item_stats):
    texts = ["gliders", "drums and more", "日本語 query"]
    rows = [{"text_id": text_id(text), "text": text, "num_events": 2} for text in texts]
    made = list(embed_contexts(save("context_texts", schemas.CONTEXT_TEXTS, rows).batches(2), FLOAT32, student))
    assert [batch.num_rows for batch in made] == [2, 1]
    table = pa.Table.from_batches(made)
    assert table.schema.equals(schemas.CONTEXT_VECTORS)
    assert table.column("text_id").to_pylist() == table.column("content_hash").to_pylist()
    np.testing.assert_allclose(np.stack(table.column("vector").to_pylist()), plain_vectors(student, texts), atol=2e-5)
    of_items = next(embed_items(items.batches(1), FLOAT32, item_stats, student))
    assert set(table.column("space_id").to_pylist()) == set(of_items.column("space_id").to_pylist())


def test_no_text_of_an_event_loads_no_model():
    assert list(embed_contexts(iter([]), TextVectors(encoder="/no/model"))) == []


def test_a_space_is_named_by_what_defines_it(student):
    space = make_encoder(FLOAT32, student).space_id
    assert make_encoder(replace(FLOAT32, batch_tokens=7, shard_rows=3), student).space_id == space
    assert make_encoder(replace(FLOAT32, pooling="last"), student).space_id != space
    assert make_encoder(replace(FLOAT32, dtype="bfloat16"), student).space_id != space


def test_the_placebo_reads_with_its_own_encoder(items, item_stats):
    table = pa.Table.from_batches(list(embed_items(items.batches(48), TextVectors(dtype="float32"), item_stats)))
    vectors = np.stack(table.column("vector").to_pylist())
    assert vectors.shape == (48, 384)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    alone = make_encoder(TextVectors(dtype="float32", batch_tokens=1), None).encode(["gliders 0"], keep_end=False)
    np.testing.assert_allclose(vectors[0], alone[0], atol=1e-5)


def test_wrong_settings_end_in_a_sentence(student):
    with pytest.raises(ConfigError, match="choose mean or last"):
        make_encoder(replace(FLOAT32, pooling="max"), student)
    with pytest.raises(ConfigError, match="encoder = student"):
        make_encoder(replace(FLOAT32, encoder="all-minilm-l6-v2"), student)
    with pytest.raises(ConfigError, match="neither a folder nor a built-in"):
        make_encoder(TextVectors(encoder="/no/model"), None)
    with pytest.raises(ConfigError, match="dtype 'int3' is unknown"):
        make_encoder(TextVectors(dtype="int3"), None)
