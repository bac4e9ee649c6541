"""The stream from prompts to outputs: order, what is asked, kept, asked again and given up."""

import json
from dataclasses import replace

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prompt_rows import prompt_row
from served_model import ServedModel

from msd_models.teacher import teach
from pipeline import schemas
from pipeline.config import TeacherOutputs
from pipeline.content_store import ContentStore
from pipeline.errors import ConfigError
from pipeline.packaged import packaged


def prompt_rows(texts):
    return [prompt_row(number, text) for number, text in enumerate(texts)]


def batches(rows, size):
    return iter(pa.Table.from_pylist(rows, schema=schemas.PROMPTS).to_batches(max_chunksize=size))


def taught(rows, config, folder, size=4):
    with ContentStore(folder) as store:
        made = list(teach(batches(rows, size), config, store))
    assert [batch.num_rows for batch in made] == [len(rows[at : at + size]) for at in range(0, len(rows), size)]
    found = pa.Table.from_batches(made, schema=schemas.TEACHER_OUTPUTS).to_pylist()
    assert [row["prompt_id"] for row in found] == [row["prompt_id"] for row in rows]
    return found


@pytest.fixture
def script(tmp_path):
    entries = [
        {"text": "Red kite", "rationale": "flies", "explicit": ["kite", "KITE", " "], "implicit": ["open sky"]},
        {"text": "Red kite deluxe", "rationale": "flies far", "explicit": ["deluxe"], "implicit": ["gift"]},
        {"text": "Blank", "rationale": "", "explicit": [], "implicit": ["..."]},
    ]
    path = tmp_path / "script.jsonl"
    path.write_text("\n".join(json.dumps(entry) for entry in entries) + "\n", encoding="utf-8")
    return TeacherOutputs(generator="scripted", script=str(path))


@pytest.fixture
def served():
    with ServedModel() as model:
        yield model


def asking(model, **changes):
    chosen = {"generator": "openai", "model": "any", "tokenizer": "all-minilm-l6-v2", "endpoint": model.endpoint}
    return TeacherOutputs(**{**chosen, **changes})


def test_every_row_comes_back_in_order_with_its_state(script, tmp_path):
    texts = ["Red kite", "nobody knows", "Red kite deluxe\nprice: 3", "Blank", "Red kite"]
    rows = taught(prompt_rows(texts), script, tmp_path / "store", size=2)
    assert [row["reason"] for row in rows] == [None, "empty", None, "no phrases", None]
    assert [row["status"] for row in rows] == ["ok", "rejected", "ok", "rejected", "ok"]
    assert rows[0]["explicit_phrases"] == ["kite"]
    assert rows[0]["repeated_phrases"] == 1
    assert rows[2]["implicit_phrases"] == ["gift"]
    assert rows[1]["attempts"] == rows[3]["attempts"] == script.max_attempts
    assert rows[0] == {**rows[4], "entity_id": "0", "prompt_id": "item:0000", "representative_id": "item:0000"}


def test_nothing_is_loaded_for_no_batches(tmp_path, script):
    assert taught([], script, tmp_path / "store") == []


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"generator": "scripted"}, "no script is named"),
        ({"generator": "scripted", "script": "/no/such.jsonl"}, "there is no file"),
        ({"generator": "oracle"}, "choose vllm, openai or scripted"),
        ({"model": "/no/such/model"}, "neither a folder nor a built-in model"),
        ({"generator": "openai", "model": "gpt"}, "set teacher_outputs.tokenizer"),
        ({"max_attempts": 0}, "wanted 1 or more"),
        ({"data_parallel": 0}, "must be 1 or more"),
        ({"template": "/no/such/folder"}, "there is no folder"),
        ({"references": "/no/such.toml"}, "cannot be read"),
        ({"language": "fr"}, "choose auto, en or zh"),
    ],
)
def test_wrong_settings_end_in_a_sentence(changes, words, tmp_path):
    with pytest.raises(ConfigError, match=words):
        taught(prompt_rows(["x"]), TeacherOutputs(**changes), tmp_path / "store")


def test_a_malformed_script_names_the_line(tmp_path):
    path = tmp_path / "bad.jsonl"
    path.write_text('{"text": "a"}\n', encoding="utf-8")
    with pytest.raises(ConfigError, match=r"bad\.jsonl:1"):
        taught(prompt_rows(["x"]), TeacherOutputs(generator="scripted", script=str(path)), tmp_path / "store")


def test_what_was_asked_of_the_model_is_told_once_and_what_was_kept_is_not(served, tmp_path):
    prompts = prompt_rows(["plain bread", "GARBAGE can", "REFUSE bin", "FLAKY soap", "plain milk"])

    def told():
        with ContentStore(tmp_path / "store") as store:
            made = list(teach(batches(prompts, 2), asking(served), store))
        facts = [json.loads((batch.schema.metadata or {}).get(b"facts", b"{}")) for batch in made]
        paid = sum(sum(batch.column("output_tokens").to_pylist()) for batch in made)
        return facts, paid

    facts, paid = told()
    assert sum(each.get("output_tokens_generated", 0) for each in facts) == paid > 0
    assert sum(each.get("generating_seconds", 0) for each in facts) > 0
    assert told() == ([{}, {}, {}], paid)


def test_failures_are_asked_again_with_another_seed_and_then_are_rows(served, tmp_path):
    texts = ["GARBAGE can", "REFUSE bin", "FLAKY soap", "WRONG turn", "HUNGRY cat", "plain bread"]
    rows = taught(prompt_rows(texts), asking(served), tmp_path / "store")
    assert [row["reason"] for row in rows] == [None, "refused", None, "refused by the server", "over-long", None]
    assert [row["attempts"] for row in rows] == [3, 3, 1, 0, 0, 1]
    assert rows[1]["raw_text"].startswith("I'm sorry")
    assert rows[0]["output_tokens"] == 15
    asked = [request for request in served.requests if "GARBAGE" in request["messages"][-1]["content"]]
    assert [request["seed"] for request in asked] == [0, 1, 2]
    assert [request["temperature"] for request in asked] == [0.0, 0.7, 0.7]


def test_near_duplicates_are_asked_once_and_pay_once(served, tmp_path):
    rows = [prompt_row(n, f"Soap bar no. {n}", representative=0, teacher_text="Soap bar no. 0") for n in range(9)]
    made = taught(rows, asking(served), tmp_path / "store")
    assert served.num_answered == 1
    assert {tuple(row["implicit_phrases"]) for row in made} == {("of 14 letters",)}
    assert [row["prompt_tokens"] for row in made] == [7] + [0] * 8
    assert [row["text"] for row in made] == [row["text"] for row in rows]


def test_a_near_duplicate_does_not_state_the_words_it_differs_by(script, tmp_path):
    entry = {"text": "Red kite", "rationale": "r", "explicit": ["red kite", "kite"], "implicit": ["open sky"]}
    (tmp_path / "script.jsonl").write_text(json.dumps(entry))
    rows = [prompt_row(0, "Red kite"), prompt_row(1, "Blue kite", representative=0, teacher_text="Red kite")]
    made = taught(rows, script, tmp_path / "store")
    assert [row["explicit_phrases"] for row in made] == [["red kite", "kite"], ["kite"]]
    assert [row["unrelated_phrases"] for row in made] == [0, 1]
    assert made[1]["implicit_phrases"] == ["open sky"]
    (tmp_path / "script.jsonl").write_text(json.dumps(entry | {"explicit": ["red kite"], "implicit": []}))
    made = taught(rows, script, tmp_path / "store")
    assert [row["reason"] for row in made] == [None, "ungrounded"]


def test_what_was_generated_is_never_generated_again(served, tmp_path):
    texts = [f"thing {number}" for number in range(12)] + ["GARBAGE one", "REFUSE two"]
    store = tmp_path / "store"
    first = taught(prompt_rows(texts), asking(served), store)
    asked = served.num_answered
    assert asked == 12 + 3 + 3
    assert taught(prompt_rows(texts), asking(served, concurrency=3), store, size=5) == first
    assert served.num_answered == asked
    texts[3] = "another thing"
    taught(prompt_rows(texts[::-1]), asking(served), store)
    assert served.num_answered == asked + 1
    taught(prompt_rows(texts), asking(served, max_attempts=4), store)
    assert served.num_answered == asked + 2


def test_whatever_a_completion_depends_on_is_part_of_its_key(served, tmp_path):
    templates = tmp_path / "mine"
    templates.mkdir()
    for path in packaged("msd_models/templates/key-phrases").iterdir():
        (templates / path.name).write_text(path.read_text() + " ")
    references = tmp_path / "references.toml"
    references.write_text(packaged("msd_models/templates/references.toml").read_text().replace("cop", "cop ") + "\n")
    changes = [
        {},
        {"template": str(templates)},
        {"revision": "2"},
        {"temperature": 0.5},
        {"seed": 1, "temperature": 0.5},
        {"max_output_tokens": 99},
        {"frequency_penalty": 0.0},
        {"num_references": 2},
    ]
    for number, change in enumerate(changes, start=1):
        taught(prompt_rows(["red thing", "blue thing"]), asking(served, **change), tmp_path / "store")
        assert served.num_answered == 2 * number, change
    free = {"concurrency": 2, "timeout_seconds": 5.0, "references": str(references), "max_attempts": 2}
    taught(prompt_rows(["red thing", "blue thing"]), asking(served, **free), tmp_path / "store")
    assert served.num_answered == 2 * len(changes)


def test_a_batch_that_waits_for_a_slow_row_does_not_hold_up_the_others(tmp_path):
    with ServedModel(seconds=0.05) as slow:
        config = asking(slow, concurrency=4)
        taught(prompt_rows([f"thing {number}" for number in range(20)]), config, tmp_path / "store", size=2)
        assert slow.most_open == 4


@settings(max_examples=15)
@given(
    st.lists(st.sampled_from(["Red kite", "Red kite deluxe", "Blank", "none", "Red  kite"]), max_size=30),
    st.integers(1, 7),
    st.integers(0, 3),
)
def test_any_cut_into_batches_makes_the_same_rows(tmp_path_factory, texts, size, kept):
    folder = tmp_path_factory.mktemp("any")
    entries = [{"text": t, "rationale": "r", "explicit": ["kite"], "implicit": ["sky"]} for t in ("Red kite", "Blank")]
    (folder / "s.jsonl").write_text("\n".join(map(json.dumps, entries)), encoding="utf-8")
    config = TeacherOutputs(generator="scripted", script=str(folder / "s.jsonl"))
    whole = taught(prompt_rows(texts), config, folder / "one", size=64)
    taught(prompt_rows(texts[:kept]), config, folder / "two", size=1)
    assert taught(prompt_rows(texts), replace(config, shard_rows=size), folder / "two", size=size) == whole
