"""Phrase F1: what must not change it, what must, and what its parts add up to."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from msd_models.phrase_scores import ScoredRow, distinct, measure

WORDS = ("aa", "ab", "bb", "bc", "cc", "zz")
LISTS = st.lists(st.sampled_from(WORDS), max_size=4)
ROWS = st.lists(
    st.builds(
        ScoredRow,
        level=st.sampled_from(("item", "user")),
        stratum=st.sampled_from(("film", "song")),
        predicted=st.tuples(LISTS, LISTS),
        gold=st.tuples(LISTS, LISTS),
    ),
    min_size=1,
    max_size=5,
)
TAU = 0.6
quick = settings(deadline=None, max_examples=60)


def encode(texts):
    """Unit vectors of letter counts: words that share a letter are alike."""
    vectors = np.array([[text.casefold().count(letter) for letter in "abcz"] for text in texts], dtype=np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def score(rows, **changes):
    return measure(rows, encode, TAU, rounds=20, **changes)


def row(predicted, gold, level="item", stratum="film"):
    return ScoredRow(level=level, stratum=stratum, predicted=predicted, gold=gold)


@quick
@given(ROWS, st.randoms(use_true_random=False))
def test_order_of_phrases_and_rows_changes_nothing(rows, random):
    before = score(rows)
    mixed = []
    for one in rows:
        lists = [random.sample(listed, len(listed)) for side in (one.predicted, one.gold) for listed in side]
        mixed.append(replace(one, predicted=tuple(lists[:2]), gold=tuple(lists[2:])))
    after = score(mixed)
    assert after == before
    turned = score(rows[::-1])
    assert turned.micro == before.micro
    assert turned.macro == pytest.approx(before.macro)
    assert turned.by_stratum == before.by_stratum
    assert turned.rows == before.rows[::-1]


@quick
@given(ROWS.filter(lambda rows: rows[0].predicted[0]), st.sampled_from((str, str.upper, " {} ".format)))
def test_saying_a_phrase_twice_never_raises_the_score(rows, written):
    """Even where one phrase is near two gold ones, which a copy could each match."""
    explicit, implicit = rows[0].predicted
    repeated = replace(rows[0], predicted=([*explicit, written(explicit[0])], implicit))
    assert score([repeated, *rows[1:]]).micro <= score(rows).micro


def test_a_copy_does_not_reap_a_second_gold_phrase():
    once = row((["aa"], []), (["aa", "ab"], []))
    twice = row((["aa", "aa"], []), (["aa", "ab"], []))
    assert score([once]).micro == score([twice]).micro == pytest.approx(2 / 3)


@quick
@given(ROWS)
def test_perfect_rows_score_one_everywhere(rows):
    found = score([replace(one, predicted=one.gold) for one in rows])
    assert found.micro == found.macro == 1
    assert found.micro_interval == found.macro_interval == (1, 1)
    assert set(found.by_list.values()) == {1}


@quick
@given(ROWS)
def test_swapped_roles_swap_precision_and_recall_and_leave_f1(rows):
    found = score(rows)
    swapped = score([replace(one, predicted=one.gold, gold=one.predicted) for one in rows])
    assert swapped.micro == pytest.approx(found.micro)
    assert swapped.macro == pytest.approx(found.macro)
    assert 0 <= found.micro <= 1


@quick
@given(ROWS)
def test_parts_are_the_scores_of_their_rows(rows):
    found = score(rows)
    for level, value in found.by_level.items():
        assert value == score([one for one in rows if one.level == level]).micro
    for level, strata in found.by_stratum.items():
        for stratum, (value, num_rows) in strata.items():
            within = [one for one in rows if (one.level, one.stratum) == (level, stratum)]
            assert (value, num_rows) == (score(within).micro, len(within))
    explicit = [replace(one, predicted=(one.predicted[0], []), gold=(one.gold[0], [])) for one in rows]
    assert found.by_list["explicit"] == score(explicit).micro
    assert found.macro == pytest.approx(sum(found.rows) / len(rows))


def test_micro_weighs_phrases_and_macro_rows():
    found = measure([row((["aa"], []), (["aa"], [])), row((["zz"], []), (["bb", "cc"], ["ab"]))], encode, 0.99)
    assert found.rows == [1.0, 0.0]
    assert found.macro == 0.5
    assert found.micro == pytest.approx(2 * 1 / (2 + 4))


def test_lists_are_matched_apart_and_rows_together():
    found = score([row((["aa"], ["zz"]), (["zz"], ["aa"]))])
    assert found.micro == 1
    assert found.by_list == {"explicit": 0, "implicit": 0}


def test_intervals_shrink_with_rows_and_hold_the_score():
    halves = [row((["aa"], []), (["aa" if number % 2 else "zz"], [])) for number in range(400)]
    few, many = measure(halves[:20], encode, TAU), measure(halves, encode, TAU)
    for found in (few, many):
        assert found.micro_interval[0] < 0.5 < found.micro_interval[1]
    widths = [found.micro_interval[1] - found.micro_interval[0] for found in (few, many)]
    assert widths[1] == pytest.approx(2 * 1.96 * (0.25 / 400) ** 0.5, rel=0.15)
    assert widths[1] < widths[0] / 3
    assert measure(halves, encode, TAU) == many
    assert measure(halves, encode, TAU, seed=1).micro_interval != many.micro_interval


def test_nothing_to_score():
    found = score([])
    assert (found.micro, found.macro, found.rows) == (0, 0, [])
    assert score([row(([], []), ([], []))]).micro == 1
    assert score([row(([], []), (["aa"], []))]).micro == 0


def test_distinct_keeps_the_first_writing():
    assert distinct(["Dark  comedy", "heist", "dark comedy"]) == ["Dark  comedy", "heist"]


def test_all_phrases_are_encoded_in_one_call():
    calls = []

    def counted(texts):
        calls.append(list(texts))
        return encode(texts)

    measure([row((["aa", "ab"], ["aa"]), (["bb"], [])), row((["aa"], []), (["bb"], []))], counted, TAU)
    assert calls == [["aa", "ab", "bb"]]
