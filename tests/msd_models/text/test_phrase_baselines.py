"""Phrases without a language model, by hand."""

import numpy as np

from msd_models.phrase_baselines import frequent_phrases, nearest_phrases


def row(text, stratum, explicit, implicit, level="item"):
    return {
        "text": text,
        "level": level,
        "stratum": stratum,
        "explicit_phrases": explicit,
        "implicit_phrases": implicit,
    }


TRAIN = [
    row("a", "Drama", ["Tears", "love"], ["sad"]),
    row("b", "Drama", ["tears"], ["slow"]),
    row("c", "Drama", ["tears", "love", "rain"], ["sad"]),
    row("d", "Comedy", ["laughs"], []),
    row("e", "short", ["films"], ["evenings"], level="user"),
]
PLACES = {"a": 0.0, "b": 1.0, "c": 2.0, "d": 3.0, "e": 0.5, "near c": 1.8, "near e": 0.4}


def encode(texts):
    angles = np.array([PLACES[text] for text in texts])
    return np.column_stack([np.cos(angles), np.sin(angles)])


def test_the_most_frequent_phrases_of_the_stratum_as_many_as_a_row_has():
    wanted = [row("x", "Drama", [], []), row("x", "Horror", [], []), row("x", "none", [], [], level="user")]
    made = frequent_phrases(TRAIN, wanted)
    assert made[0] == (["tears", "love"], ["sad"])
    assert made[1] == (["tears", "love"], ["sad"])
    assert made[2] == (["films"], ["evenings"])
    assert frequent_phrases([], wanted)[0] == ([], [])


def test_the_phrases_of_the_nearest_row_of_the_same_level():
    wanted = [row("near c", "?", [], []), row("near e", "?", [], []), row("near c", "?", [], [], level="user")]
    made = nearest_phrases(TRAIN, wanted, encode)
    assert made[0] == (["tears", "love", "rain"], ["sad"])
    assert made[1] == (["Tears", "love"], ["sad"])
    assert made[2] == (["films"], ["evenings"])
    assert nearest_phrases([], wanted, encode) == [([], [])] * 3
