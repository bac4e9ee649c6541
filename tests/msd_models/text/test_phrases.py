"""Phrase lists and their F1."""

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from msd_models.phrases import MAX_PHRASE_CHARACTERS, clean_phrases, count_matches, f1, phrase_f1

WORDS = ("aa", "ab", "bb", "bc", "cc", "zz")
LISTS = st.lists(st.sampled_from(WORDS), max_size=4)
TAU = 0.6


def encode(texts):
    """Unit vectors of letter counts: words that share a letter are alike."""
    vectors = np.array([[text.count(letter) for letter in "abcz"] for text in texts], dtype=np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def best_count(cosine, threshold):
    """Every one-to-one assignment tried."""
    rows, columns = cosine.shape
    if rows > columns:
        return best_count(cosine.T, threshold)
    return max(
        (sum(cosine[r, c] >= threshold for r, c in enumerate(chosen)) for chosen in permutations(range(columns), rows)),
        default=0,
    )


@settings(deadline=None)
@given(rows=st.integers(0, 4), columns=st.integers(0, 4), seed=st.integers(0, 10_000), threshold=st.floats(-0.9, 0.9))
def test_matching_equals_brute_force(rows, columns, seed, threshold):
    cosine = np.random.default_rng(seed).uniform(-1, 1, (rows, columns))
    assert count_matches(cosine, threshold) == best_count(cosine, threshold)


@settings(deadline=None)
@given(LISTS, LISTS)
def test_f1_is_symmetric_and_bounded(said, wanted):
    one = phrase_f1([said], [wanted], encode, TAU)
    other = phrase_f1([wanted], [said], encode, TAU)
    assert one.micro == pytest.approx(other.micro)
    assert 0 <= one.micro <= 1


@settings(deadline=None)
@given(st.lists(LISTS, min_size=1, max_size=4))
def test_identical_lists_score_one(rows):
    scores = phrase_f1(rows, rows, encode, 1.0)
    assert scores.micro == scores.macro == 1


@settings(max_examples=200, deadline=None)
@given(said=LISTS.filter(bool), wanted=LISTS.map(lambda words: list(dict.fromkeys(words))))
def test_repeating_a_phrase_never_raises_f1(said, wanted):
    """Against distinct unlike gold phrases a repeat can only add a false positive."""
    before = phrase_f1([clean_phrases(said)], [wanted], encode, 1.0).micro
    after = phrase_f1([[*clean_phrases(said), said[0]]], [wanted], encode, 1.0).micro
    assert after <= before


def test_micro_weighs_phrases_and_macro_rows():
    scores = phrase_f1([["aa"], ["zz"]], [["aa"], ["bb", "cc", "ab"]], encode, 0.99)
    assert scores.rows == [1.0, 0.0]
    assert scores.macro == 0.5
    assert scores.micro == pytest.approx(2 * 1 / (2 + 4))


def test_empty_cases():
    assert f1(0, 0, 0) == 1
    assert phrase_f1([[]], [["aa"]], encode, TAU).micro == 0
    assert phrase_f1([], [], encode, TAU).macro == 0


@given(st.lists(st.one_of(st.text(max_size=60), st.integers(), st.none())))
def test_cleaning_is_idempotent_and_distinct(phrases):
    cleaned = clean_phrases(phrases)
    assert clean_phrases(cleaned) == cleaned
    assert len({phrase.casefold() for phrase in cleaned}) == len(cleaned)
    assert all(0 < len(phrase) <= MAX_PHRASE_CHARACTERS for phrase in cleaned)


def test_cleaning_strips_marks_and_repeats():
    assert clean_phrases([' "Dark  comedy". ', "dark comedy", "- heist", "...", ""]) == ["Dark comedy", "heist"]
