"""Completions understood, and phrases in the list where they belong."""

import json
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from msd_models.answers import JSON_SCHEMA, Answer, parse_answer
from msd_models.generators import Completion
from msd_models.grounding import Grounder, Thresholds, normal, occurs
from msd_models.sentence_encoder import SentenceEncoder
from msd_models.worked_examples import read_references

JSON = st.recursive(st.none() | st.text(max_size=9) | st.integers(), lambda inner: st.lists(inner, max_size=4))
THRESHOLDS = Thresholds(grounded=0.6, repeated=0.8, unrelated=0.2)
LISTS = st.lists(st.text(max_size=20), max_size=5)


def completion(text, is_complete=True):
    return Completion(text=text, prompt_tokens=3, output_tokens=4, is_complete=is_complete)


def answer(explicit=(), implicit=()):
    return Answer(explicit=tuple(explicit), implicit=tuple(implicit))


def strangers(texts):
    """Every text its own direction: only equal texts are near."""
    return np.eye(max(len(texts), 1) + 1, dtype=np.float32)[: len(texts)]


@pytest.fixture(scope="module")
def grounder():
    return Grounder(SentenceEncoder("all-minilm-l6-v2").encode, THRESHOLDS)


@given(st.one_of(st.text(), JSON.map(json.dumps), st.fixed_dictionaries({"explicit": JSON}).map(json.dumps)))
def test_any_completion_is_understood_or_rejected(text):
    found = parse_answer(completion(text))
    assert (found.reason is None) == bool(found.explicit or found.implicit)


@given(LISTS, LISTS)
def test_what_is_repeated_is_counted(explicit, implicit):
    found = parse_answer(completion(json.dumps({"explicit": explicit, "implicit": implicit})))
    kept = [phrase.casefold() for phrase in (*found.explicit, *found.implicit)]
    assert len(set(kept)) == len(kept)
    assert len(kept) + found.repeated <= len(explicit) + len(implicit)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (" \n", "empty"),
        ('{"explicit": ["a', "unparsable"),
        ('{"explicit": "a"}', "no phrases"),
        ('{"explicit": [3, null]}', "no phrases"),
        ("I'm sorry, but I can't help with that.", "refused"),
        ("As an AI, I do not watch films.", "refused"),
        ("抱歉，我无法完成这个请求。", "refused"),
        ('{"rationale": "I cannot answer this", "explicit": ["a"], "implicit": ["b"]}', "refused"),
        ('Sure! {"rationale": "a cannon", "explicit": ["big gun"], "implicit": []} Hope it helps', None),
        ("[" * 100_000, "unparsable"),
    ],
)
def test_reasons(text, reason):
    assert parse_answer(completion(text)).reason == reason
    if reason == "unparsable":
        assert parse_answer(completion(text, is_complete=False)).reason == "truncated"


def test_the_schema_asks_for_reasons_before_phrases():
    assert list(JSON_SCHEMA["properties"]) == ["rationale", "explicit", "implicit"]
    pattern = re.compile(JSON_SCHEMA["properties"]["explicit"]["items"]["pattern"])
    for good in ("heist film", "1995", "D-Day landing", "酸奶雪糕", "easy on the eyes"):
        assert pattern.search(good), good
    for bad in ("", "a", "a sentence of six words here", 'quo"te', "tail "):
        assert not pattern.search(bad), bad


def test_the_text_decides_what_is_explicit(grounder):
    text = "Knife for the kitchen, stainless steel\nbrand: Sabat\nyear: 1995"
    said = answer(["knife", "cooking lessons", "1995", "photosynthesis"], ["Kitchen!", "careful cooks"])
    found = grounder.sort([(text, said, ())])[0]
    assert found.explicit == ("knife", "1995", "Kitchen!")
    assert found.implicit == ("cooking lessons", "careful cooks")
    assert (found.moved_to_implicit, found.moved_to_explicit, found.unrelated) == (1, 1, 1)


def test_a_paraphrase_of_a_part_is_explicit(grounder):
    found = grounder.sort([("Knives for kitchens\ncolour: blue", answer(["kitchen knife"]), ())])[0]
    assert found.explicit == ("kitchen knife",)


def test_phrases_parroted_from_the_example_are_dropped_unless_the_text_states_them():
    said = answer(["Horror"], ["Slow dread", "night fears"])
    found = Grounder(strangers, THRESHOLDS).sort([("A horror film", said, ("horror", "slow dread"))])[0]
    assert (found.explicit, found.implicit, found.unrelated) == (("Horror",), ("night fears",), 1)


@given(st.lists(st.tuples(st.text(max_size=40), LISTS, LISTS), max_size=4))
def test_no_phrase_is_lost_without_being_counted(rows):
    def one(text, explicit, implicit):
        return text, parse_answer(completion(json.dumps({"explicit": explicit, "implicit": implicit}))), ()

    asked = [one(*row) for row in rows]
    for (text, said, _), found in zip(asked, Grounder(strangers, THRESHOLDS).sort(asked), strict=True):
        before, after = len(said.explicit) + len(said.implicit), len(found.explicit) + len(found.implicit)
        assert before == after + found.unrelated + found.repeated
        assert all(occurs(normal(phrase), normal(text)) for phrase in found.explicit)
        assert not any(occurs(normal(phrase), normal(text)) for phrase in found.implicit)


def test_words_are_whole_but_chinese_has_none():
    assert occurs(normal("War"), normal("The  WAR, of 1812"))
    assert not occurs(normal("art"), normal("Party"))
    assert occurs(normal("酸奶"), normal("低糖酸奶雪糕"))
    assert occurs(normal("６支"), normal("草莓味 6支装"))
    assert not occurs("", "anything")


def test_the_cache_of_vectors_gives_the_same_answers(grounder):
    rows = [(f"Item {n}\ngenre: Comedy", answer(["comedy", "funny film"], ["laughter"]), ()) for n in range(3)]
    assert grounder.sort(rows) == [grounder.sort([row])[0] for row in rows]


def test_the_worked_examples_obey_the_rules_they_teach(grounder):
    for reference in read_references(""):
        found = parse_answer(completion(reference.answer))
        sorted_phrases = grounder.sort([(reference.text, found, ())])[0]
        assert found.reason is None
        assert sorted_phrases.implicit == reference.implicit, reference.id
        assert set(sorted_phrases.explicit) == set(reference.explicit), reference.id
