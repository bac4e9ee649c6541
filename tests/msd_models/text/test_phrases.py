"""Phrase lists: cleaning and one-to-one matching."""

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from msd_models.phrases import MAX_PHRASE_CHARACTERS, clean_phrases, count_matches, f1


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


def test_f1_of_nothing_is_one_and_of_no_match_nought():
    assert f1(0, 0, 0) == 1
    assert f1(0, 2, 3) == 0
    assert f1(1, 2, 4) == pytest.approx(2 * 0.5 * 0.25 / (0.5 + 0.25))


@given(st.lists(st.one_of(st.text(max_size=60), st.integers(), st.none())))
def test_cleaning_is_idempotent_and_distinct(phrases):
    cleaned = clean_phrases(phrases)
    assert clean_phrases(cleaned) == cleaned
    assert len({phrase.casefold() for phrase in cleaned}) == len(cleaned)
    assert all(0 < len(phrase) <= MAX_PHRASE_CHARACTERS for phrase in cleaned)


def test_cleaning_strips_marks_and_repeats():
    assert clean_phrases([' "Dark  comedy". ', "dark comedy", "- heist", "...", ""]) == ["Dark comedy", "heist"]
