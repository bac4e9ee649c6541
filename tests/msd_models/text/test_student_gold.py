"""The student against hand-written phrases: found in the catalogue by title, and scored like everything else."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from msd_models.distillation_rows import split_rows
from msd_models.gold import GoldRow
from msd_models.language_model import load_causal, load_tokenizer
from msd_models.phrase_writing import write_phrases
from msd_models.student_gold import against_gold, find_gold
from msd_models.student_prompt import prompt_ids


def wanted(text, explicit, level="item"):
    return GoldRow(text=text, level=level, explicit=explicit, implicit=[])


@pytest.fixture(scope="module")
def split(teacher_outputs, tiny_settings):
    return split_rows(teacher_outputs.table().to_pylist(), tiny_settings)


def test_gold_rows_are_found_in_the_catalogue_by_title(items, item_rows, split):
    named, other = item_rows[1]["title"], item_rows[2]["title"]
    gold = [wanted(named, ["a"]), wanted("no such film", ["b"]), wanted(other, ["c"], "user")]
    [(row, found)] = find_gold(gold, items, split)
    assert found is gold[0]
    assert row["text"] == f"{item_rows[1]['text']}\ncolour: blue", "attributes are read as everywhere"
    assert find_gold([], items, split) == []


def test_what_the_student_says_is_scored(student, items, item_rows, split, tiny_settings):
    model = load_causal(student.folder / "model", "float32")
    prompt = prompt_ids(load_tokenizer(student.folder / "model"))
    gold = [wanted(row["title"], [row["title"].split()[0]]) for row in item_rows[:6]]
    pairs = find_gold(gold, items, split)
    said = write_phrases(model, prompt, [row for row, _ in pairs], tiny_settings.max_length)
    judge = SimpleNamespace(config=tiny_settings, encode=exactly, threshold=0.9)
    found = against_gold(model, prompt, pairs, split, judge)
    phrases = [{*explicit, *implicit} for explicit, implicit in said]
    hits = sum(target.explicit[0] in one for one, (_, target) in zip(phrases, pairs, strict=True))
    num_said = sum(len(one) for one in phrases)
    assert found["rows"] == 6
    assert found["f1_micro"] == pytest.approx(2 * hits / (num_said + 6), abs=1e-4)
    assert against_gold(model, prompt, [], split, judge) is None
    json.dumps(found)


def exactly(texts):
    """Two texts are alike when they are the same."""
    return np.eye(len(texts), dtype=np.float32)
