"""Copies of rows: what may change, what never may, and what is refused."""

import random
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from msd_models.augmentation import (
    SHIPPED_DICTIONARY,
    UNITS,
    Dictionary,
    augment,
    occurs,
    protected_words,
    read_dictionary,
    shuffled,
    substituted,
)
from pipeline.config import Student
from pipeline.errors import ConfigError
from pipeline.packaged import packaged

PAIRS = Dictionary(pairs=(("film", "movie"), ("scary", "frightening"), ("tasty", "delicious"), ("影片", "片子")))
WORDS = [
    "film",
    "Film",
    "movie",
    "scary",
    "frightening",
    "tasty",
    "Tasty",
    "Acme",
    "8",
    "12",
    "kg",
    "a",
    "影片",
    "filming",
]
PHRASE = st.lists(st.sampled_from(WORDS), min_size=1, max_size=4).map(" ".join)
LINE = st.lists(st.sampled_from([*WORDS, ".", "brand: Tasty", "-"]), max_size=8).map(" ".join)
TEXT = st.lists(LINE, min_size=1, max_size=3).map("\n".join)
ROW = st.builds(
    lambda text, explicit, implicit: {
        "prompt_id": "item:1",
        "text": text,
        "explicit_phrases": explicit,
        "implicit_phrases": implicit,
    },
    TEXT,
    st.lists(PHRASE, max_size=4),
    st.lists(PHRASE, max_size=4),
)


def row(text, explicit=(), implicit=()):
    return {"prompt_id": "x", "text": text, "explicit_phrases": list(explicit), "implicit_phrases": list(implicit)}


def substitutions(made):
    """Whatever copies twenty draws make of the row."""
    copies = (substituted(made, PAIRS, random.Random(seed)) for seed in range(20))
    return [copy for copy in copies if copy]


@given(ROW, st.integers(0, 5))
def test_phrases_are_shuffled_within_their_list_only(made, seed):
    copy = shuffled(made, random.Random(seed))
    if copy is None:
        assert max(len(made["explicit_phrases"]), len(made["implicit_phrases"])) < 2
        return
    assert copy["text"] == made["text"]
    for name in ("explicit_phrases", "implicit_phrases"):
        assert sorted(copy[name]) == sorted(made[name])


@given(ROW, st.integers(0, 5))
def test_numbers_names_attribute_values_and_units_stay(made, seed):
    copy = substituted(made, PAIRS, random.Random(seed))
    if copy is None:
        return
    before, after = (
        "\n".join([one["text"], *one["explicit_phrases"], *one["implicit_phrases"]]) for one in (made, copy)
    )
    assert before != after
    assert re.findall(r"\d+\s*\w*", before) == re.findall(r"\d+\s*\w*", after)
    for word in protected_words(made["text"]):
        if word.isascii():
            pattern = re.compile(rf"(?<!\w){re.escape(word)}(?!\w)", re.IGNORECASE)
            assert len(pattern.findall(before)) == len(pattern.findall(after)), word


@given(ROW, st.integers(0, 5))
def test_an_explicit_phrase_of_the_text_is_one_of_the_copys_text(made, seed):
    copy = substituted(made, PAIRS, random.Random(seed))
    if copy:
        pairs = zip(made["explicit_phrases"], copy["explicit_phrases"], strict=True)
        assert all(occurs(new, copy["text"]) for old, new in pairs if occurs(old, made["text"]))
        assert len(copy["implicit_phrases"]) == len(made["implicit_phrases"])


@given(ROW, st.integers(0, 3))
def test_text_and_phrases_change_together(made, seed):
    copy = substituted(made, PAIRS, random.Random(seed))
    if copy:
        everything = "\n".join([copy["text"], *copy["explicit_phrases"], *copy["implicit_phrases"]])
        for first, second in PAIRS.pairs[:3]:
            found = [re.search(rf"(?<!\w){word}(?!\w)", everything, re.IGNORECASE) for word in (first, second)]
            source = "\n".join([made["text"], *made["explicit_phrases"], *made["implicit_phrases"]])
            both = all(re.search(rf"(?<!\w){word}(?!\w)", source, re.IGNORECASE) for word in (first, second))
            assert both or not all(found)


@pytest.mark.parametrize(
    "text",
    [
        "8 film box",
        "8-film box",
        "brand: film house",
        "This is the Film of Acme",
        "it is 5影片",
        "品牌: 影片",
    ],
)
def test_a_protected_word_is_left_alone(text):
    assert substitutions(row(text)) == []


def test_words_are_exchanged_in_text_and_phrases_and_keep_their_case():
    made = row("Scary film about a ghost", ["scary film"], ["film for adults"])
    copies = substitutions(made)
    assert {"text": "Frightening movie about a ghost"}.items() <= copies[0].items() or len(copies) > 1
    whole = next(copy for copy in copies if copy["text"] == "Frightening movie about a ghost")
    assert whole["explicit_phrases"] == ["frightening movie"]
    assert whole["implicit_phrases"] == ["movie for adults"]


def test_a_copy_that_loses_a_phrase_is_refused():
    assert substitutions(row("a film about ropes", ["a fil"])) == []
    assert substitutions(row("a film about ropes", ["film about"])) != []


def test_both_words_of_a_pair_in_one_row_are_left_alone():
    assert substitutions(row("a film of a movie")) == []


def test_an_article_that_would_not_fit_keeps_the_word():
    pairs = Dictionary(pairs=(("funny", "amusing"),))
    assert substituted(row("a funny duck"), pairs, random.Random(0)) is None
    assert substituted(row("the funny duck"), pairs, random.Random(1))["text"] == "the amusing duck"


def test_copies_stand_behind_their_row_and_depend_on_nothing_else():
    rows = [
        {**row(f"the scary film {word}", ["scary film", word], ["x", "y", "z"]), "prompt_id": word} for word in "pq"
    ]
    settings = Student(shuffle_phrases=2, substitute_words=2)
    made = augment(rows, settings)
    assert made[0] == rows[0]
    assert len(made) > 4
    assert augment(rows[::-1], settings)[-len([one for one in made if one["prompt_id"] == "p"]) :] == [
        one for one in made if one["prompt_id"] == "p"
    ]
    assert augment(rows, Student()) == rows


def test_the_shipped_dictionary_is_sound():
    pairs = read_dictionary(packaged(SHIPPED_DICTIONARY)).pairs
    assert len(pairs) >= 80
    assert len(set(pairs)) == len(pairs)
    words = [word for pair in pairs for word in pair]
    assert not set(words) & UNITS
    assert sum(any("\u4e00" <= character <= "\u9fff" for character in word) for word in words) >= 10


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("[en]\npairs = []", "holds no pairs"),
        ("[en]\npairs = [['film']]", "is no pair"),
        ("[en]\npairs = [['film', 'film']]", "'film' twice"),
        ("[en]\npairs = [['kg', 'kilo']]", "'kg' cannot be exchanged"),
        ("[en]\npairs = [['4k', 'sharp']]", "'4k' cannot be exchanged"),
        ("[en\n", "cannot be read as TOML"),
    ],
)
def test_a_wrong_dictionary_is_a_sentence(tmp_path, content, sentence):
    path = tmp_path / "words.toml"
    path.write_text(content)
    with pytest.raises(ConfigError, match=sentence):
        read_dictionary(path)
