"""Distinct texts of events: against ten plain lines, cut like the floor cuts them, and none at all."""

from collections import Counter
from json import dumps

import pytest

from pipeline.errors import StageError
from pipeline.runner import run, run_stage
from pipeline.stages import BY_NAME
from pipeline.texts import text_id
from spark_jobs.context_texts import _cut
from spark_jobs.execute import read_dataset

PLAIN = """
[items]
path = "items.csv"
[events]
path = "events.jsonl"
time = "time"
label = "label"
"""
WITH_TEXTS = PLAIN + 'context = ["device"]\ntext_context = ["query", "page"]\n'
QUERIES = ["red shoes", "blue shoes", " red shoes ", None, "", "鞋 " * 40, "naïve ✓"]
PAGES = ["home", None, "red shoes"]


def whole_characters(text, max_bytes):
    while len(text.encode()) > max_bytes:
        text = text[:-1]
    return text


@pytest.fixture
def log(world):
    world.write("items.csv", "item_id,title\n" + "".join(f"i{n},Item {n}\n" for n in range(9)))
    rows = [
        {
            "user_id": f"u{n % 5}",
            "item_id": f"i{n % 9}",
            "time": 1000 + n,
            "label": n % 2,
            "query": QUERIES[n % len(QUERIES)],
            "page": PAGES[n % len(PAGES)],
            "device": "phone",
        }
        for n in range(60)
    ]
    world.write("events.jsonl", "".join(dumps(row) + "\n" for row in rows))
    return world


@pytest.mark.spark
def test_each_text_stands_once_with_the_events_that_carry_it(log):
    made = log.make(WITH_TEXTS, "context_texts", "interactions", settings=("context_texts.max_text_bytes=20",))
    counted = Counter()
    for row in made["interactions"].to_pylist():
        counted.update({value for name, value in row["context"] if name in ("query", "page")})
    rows = made["context_texts"].to_pylist()
    wanted = sorted((text_id(text), whole_characters(text, 20), events) for text, events in counted.items())
    assert [(row["text_id"], row["text"], row["num_events"]) for row in rows] == wanted
    assert {"red shoes", "home", "naïve ✓"} < set(counted)
    assert max(len(text.encode()) for text in counted) > 20, "nothing was cut"


@pytest.mark.spark
def test_a_source_without_texts_has_an_empty_table_that_every_reader_takes(log, spark):
    plan = log.plan(PLAIN)
    run(plan, ["context_texts"])
    texts = plan.dataset("context_texts")
    assert texts.manifest["rows_ok"] == 0
    assert texts.table().schema.names == BY_NAME["context_texts"].schema.names
    assert list(texts.batches(10)) == []
    frame = read_dataset(spark, texts)
    assert frame.count() == 0
    assert frame.columns == BY_NAME["context_texts"].schema.names
    for name in ("context_vectors", "context_text_vectors", "tuned_context_vectors"):
        # There is no student, tuned or not: nobody loads one for no text.
        run_stage(plan, BY_NAME[name])
        assert plan.dataset(name).manifest["rows_in"] == 0
        assert plan.dataset(name).table().num_rows == 0


@pytest.mark.spark
def test_a_table_that_may_not_be_empty_still_fails(log):
    log.write("items.csv", "item_id,title\ni0,\n")
    with pytest.raises(StageError, match="rejected"):
        run(log.plan(PLAIN), ["items"])


@pytest.mark.spark
def test_a_cut_keeps_the_whole_characters_that_fit(spark):
    texts = ["a" * 9, "é" * 5, "漢字漢字", "🎈🎈🎈", "short", "naïve naïve"]
    frame = spark.createDataFrame([(text,) for text in texts], "said string")
    limits = range(4, 14)
    cut = frame.select(*[_cut("said", limit).alias(str(limit)) for limit in limits]).collect()
    for limit in limits:
        assert [row[str(limit)] for row in cut] == [whole_characters(text, limit) for text in texts]
