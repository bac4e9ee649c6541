"""Vectors beside what is kept of them: only missing texts are read, and what was read comes back byte for byte."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from msd_models.embed import embed_items, embed_users
from msd_models.encoders import make_encoder
from msd_models.pace import Pace
from msd_models.vector_reader import Reading, read_with
from msd_models.vector_texts import UserReads, content_of, history_text, item_texts
from pipeline import schemas
from pipeline.config import Vectors
from pipeline.errors import ConfigError, StageError
from pipeline.kept_vectors import KeptVectors
from pipeline.storage import Workspace
from pipeline.texts import item_text, text_id

CONFIG = Vectors(dtype="float32", engine="plain", shard_rows=8)


@pytest.fixture
def kept(tmp_path):
    with KeptVectors(tmp_path / "kept_vectors") as opened:
        yield opened


@pytest.fixture(scope="module")
def headless(student, tmp_path_factory):
    """The same student by its manifest, without weights or tokenizer: whoever would read a text with it fails."""
    copy = Workspace(tmp_path_factory.mktemp("headless")).dataset(student.name, student.fingerprint, None)
    (copy.folder / "model").mkdir(parents=True)
    for name in ("manifest.json", "model/config.json"):
        shutil.copy(student.folder / name, copy.folder / name)
    return copy


def facts_of(batches):
    counted = [json.loads(batch.schema.metadata[b"facts"]) for batch in batches]
    return {name: sum(facts[name] for facts in counted) for name in ("texts", "texts_read")}


def tokens_of(batches):
    return sum(json.loads(batch.schema.metadata[b"facts"]).get("tokens_read", 0) for batch in batches)


def vectors_of(batches):
    return [np.array(vector, np.float32).tobytes() for batch in batches for vector in batch["vector"].to_pylist()]


def changed(items, save, texts):
    rows = [row | {"text": texts.get(row["item_id"], row["text"])} for row in items.table().to_pylist()]
    return save("items", schemas.ITEMS, rows)


def test_what_is_kept_comes_back_without_model_or_tokenizer(student, headless, items, item_stats, kept):
    first = list(embed_items(items.batches(8), CONFIG, item_stats, student, kept))
    again = list(embed_items(items.batches(8), CONFIG, item_stats, headless, kept))
    assert vectors_of(again) == vectors_of(first)
    assert facts_of(first) == {"texts": 48, "texts_read": 48}
    assert facts_of(again) == {"texts": 48, "texts_read": 0}


def test_two_changed_items_are_two_texts_read_and_the_rest_is_the_same_bytes(student, items, item_stats, kept, save):
    first = list(embed_items(items.batches(8), CONFIG, item_stats, student, kept))
    other = changed(items, save, {"i3": "gliders of tomorrow", "i40": "drums, drums"})
    again = list(embed_items(other.batches(8), CONFIG, item_stats, student, kept))
    assert facts_of(again)["texts_read"] == 2
    counted = make_encoder(CONFIG, student).count_tokens(
        ["gliders of tomorrow", "drums, drums\ncolour: blue"], keep_end=False
    )
    assert tokens_of(again) == sum(counted)
    differing = [n for n, (a, b) in enumerate(zip(vectors_of(first), vectors_of(again), strict=True)) if a != b]
    assert differing == [3, 40]
    back = list(embed_items(items.batches(16), CONFIG, item_stats, student, kept))
    assert facts_of(back)["texts_read"] == 0
    assert vectors_of(back) == vectors_of(first)


def test_each_batch_in_is_one_batch_out_however_many_are_gathered(student, items, item_stats, kept, save):
    list(embed_items(items.batches(8), CONFIG, item_stats, student, kept))
    taken = []

    def batches(dataset):
        for batch in dataset.batches(5):
            taken.append(batch.num_rows)
            yield batch

    other = changed(items, save, {"i2": "one", "i9": "two", "i30": "three", "i31": "four", "i47": "five"})
    made = embed_items(batches(other), CONFIG, item_stats, student, kept)
    assert next(made).num_rows == 5
    assert len(taken) == 7, "four texts, half a shard, are missing when the seventh batch is in"
    rest = list(made)
    assert [batch.num_rows for batch in rest] == [5] * 8 + [3]
    ids = [item for batch in rest for item in batch["item_id"].to_pylist()]
    assert ids == [f"i{n}" for n in range(5, 48)]


def test_a_text_that_many_rows_share_is_read_once(student, items, item_stats, kept, save):
    same = changed(items, save, {f"i{n}": "one text" for n in range(48)})
    rows = same.table().to_pylist()
    same = save("items", schemas.ITEMS, [row | {"attributes": []} for row in rows])
    made = list(embed_items(same.batches(8), CONFIG, item_stats, student, kept))
    assert facts_of(made) == {"texts": 6, "texts_read": 1}
    assert len(set(vectors_of(made))) == 1


@pytest.mark.parametrize("other", [{"pooling": "mean"}, {"dtype": "bfloat16"}, {"max_tokens": 20}])
def test_another_space_or_reading_reads_everything_again_and_leaves_the_old(student, items, item_stats, kept, other):
    first = list(embed_items(items.batches(48), CONFIG, item_stats, student, kept))
    made = list(embed_items(items.batches(48), replace(CONFIG, **other), item_stats, student, kept))
    assert facts_of(made)["texts_read"] == 48
    again = list(embed_items(items.batches(48), CONFIG, item_stats, student, kept))
    assert facts_of(again)["texts_read"] == 0
    assert vectors_of(again) == vectors_of(first)


def test_ends_and_beginnings_of_long_texts_are_not_mixed(student, kept):
    start, end = (Reading(config=CONFIG, student=student, kept=kept, keep_end=keep) for keep in (False, True))
    encoder = start.encoder()
    assert start.store(encoder).folder != end.store(encoder).folder


def test_behaviours_are_kept_by_all_that_is_read(student, headless, items, item_stats, kept, save):
    start = item_stats.table()["first_seen_at"][0].as_py()
    rows = [
        {"user_id": f"u{n % 3}", "snapshot_at": start, "num_events": n, "item_ids": [f"i{k}" for k in range(n)],
         "event_times": [start] * n, "labels": [k % 2 for k in range(n)], "is_embedded": True}
        for n in range(2, 8)
    ]  # fmt: skip
    users = save("users", schemas.USERS, [{"user_id": "u1", "attributes": [("age", "30")]}])
    histories = save("histories", schemas.HISTORIES, rows)
    config = replace(CONFIG, mode="behaviours", behaviour_layers=1)
    first = list(embed_users(histories.batches(3), config, items, users, student, kept))
    again = list(embed_users(histories.batches(6), config, items, users, headless, kept))
    assert vectors_of(again) == vectors_of(first)
    assert facts_of(first) == {"texts": 6, "texts_read": 6}
    relabelled = save("histories", schemas.HISTORIES, [row | {"labels": [1] * len(row["labels"])} for row in rows])
    assert facts_of(list(embed_users(relabelled.batches(6), config, items, users, student, kept)))["texts_read"] == 6


def test_texts_of_slices_are_those_of_their_rows(items, item_rows):
    batch = next(items.batches(48)).slice(5, 20)
    wanted = [item_text(row["text"], dict(row["attributes"])) for row in item_rows[5:25]]
    assert item_texts(batch) == wanted
    assert [text_id(text) for text in wanted] == [text_id(content_of(text).decode()) for text in wanted]


def test_histories_are_cut_as_a_plain_slice_cuts_them(items, item_rows, save):
    start = item_rows[0]["available_at"]
    rows = [
        {"user_id": "u", "snapshot_at": 0, "num_events": n, "item_ids": [f"i{k}" for k in range(n)],
         "event_times": [0] * n, "labels": [k % 2 for k in range(n)], "is_embedded": n % 2 == 0}
        for n in range(9)
    ]  # fmt: skip
    assert start is None
    batch = pa.RecordBatch.from_pylist(rows, schema=schemas.HISTORIES)
    titles = {row["item_id"]: row["title"] for row in item_rows}
    for number in (0, 1, 3, 50):
        reads = UserReads(replace(CONFIG, history_titles=number), items, save("users", schemas.USERS, []))
        assert reads.of(batch.slice(2)) == [history_text(row, titles, {}, number) for row in rows[2:]]


class Spoilt:
    """An encoder whose second vector is broken."""

    dimension, space_id, reading, tokens_read = 3, "s" * 16, "r" * 8, 0

    def encode(self, texts, *, keep_end):
        vectors_ND = np.ones((len(texts), 3), dtype=np.float32)
        vectors_ND[1, 2] = np.nan
        return vectors_ND


def test_what_is_no_number_is_named_and_not_kept():
    with pytest.raises(StageError, match=rf"for 1 of 3 texts, the first with content hash {text_id('b')}"):
        read_with(Spoilt(), ["a", "b", "c"], keep_end=False, pace=Pace(weights_bytes=1))


def test_a_shard_that_no_table_can_hold_is_refused(student, items, item_stats):
    huge = replace(CONFIG, shard_rows=2**30)
    with pytest.raises(ConfigError, match="set shard_rows to"):
        list(embed_items(items.batches(8), huge, item_stats, student))
