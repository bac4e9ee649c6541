"""Phrase lists: cleaning, and the F1 of one list against another by one-to-one matching of sentence vectors.

Two phrases are equal when the cosine of their vectors passes τ. Each phrase is matched at most once, by the assignment
of largest total similarity: greedy many-to-one matching would reward repeating a phrase (docs/methods.md).
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

MAX_PHRASE_CHARACTERS = 80
"""What is longer is a sentence, not a phrase."""
ROUNDING = 1e-5
"""Slack of the threshold: the cosine of a phrase with itself is 1 within float32 rounding."""
Encode = Callable[[Sequence[str]], np.ndarray]
"""Texts → unit vectors [N, D]."""


@dataclass(frozen=True, kw_only=True)
class PhraseScores:
    """F1 of a set of rows."""

    micro: float
    """Over all phrases of all rows."""
    macro: float
    """Mean of the rows' F1."""
    rows: list[float]
    """One F1 a row."""


def clean_phrases(phrases: Iterable[object]) -> list[str]:
    """Phrases stripped of space, quotes and bullets; empty, overlong and repeated ones (in any case) are left out."""
    kept: dict[str, str] = {}
    for phrase in phrases:
        if isinstance(phrase, str):
            text = " ".join(phrase.split()).strip(" \t\"'`*•-–,;:.|[]{}")
            if text and len(text) <= MAX_PHRASE_CHARACTERS and any(c.isalnum() for c in text):
                kept.setdefault(text.casefold(), text)
    return list(kept.values())


def phrase_f1(
    predicted: Sequence[Sequence[str]], gold: Sequence[Sequence[str]], encode: Encode, threshold: float
) -> PhraseScores:
    """F1 of predicted phrases against gold ones, row by row and over all rows.

    Args:
        predicted: phrases of each row.
        gold: the wanted phrases of the same rows.
        encode: texts → unit vectors; called once with all distinct phrases.
        threshold: τ, the cosine from which two phrases are equal.
    """
    distinct = sorted({phrase for row in [*predicted, *gold] for phrase in row})
    vectors_ND = encode(distinct) if distinct else np.zeros((0, 1), dtype=np.float32)
    position = {phrase: number for number, phrase in enumerate(distinct)}
    matched = []
    for said, wanted in zip(predicted, gold, strict=True):
        said_PD = vectors_ND[[position[phrase] for phrase in said]]
        wanted_GD = vectors_ND[[position[phrase] for phrase in wanted]]
        matched.append(count_matches(said_PD @ wanted_GD.T, threshold))
    rows = [f1(m, len(p), len(g)) for m, p, g in zip(matched, predicted, gold, strict=True)]
    micro = f1(sum(matched), sum(map(len, predicted)), sum(map(len, gold)))
    return PhraseScores(micro=micro, macro=float(np.mean(rows)) if rows else 0.0, rows=rows)


def count_matches(cosine_PG: np.ndarray, threshold: float) -> int:
    """Pairs of the one-to-one assignment that matches most phrases, then with the largest total similarity.

    Pairs below the threshold weigh nothing. The constant on pairs above it makes one more match worth more than any
    gain in similarity.
    """
    from scipy.optimize import linear_sum_assignment

    if cosine_PG.size == 0:
        return 0
    equal_PG = cosine_PG >= threshold - ROUNDING
    smaller = min(cosine_PG.shape)
    weight_PG = np.where(equal_PG, 2.0 * smaller + cosine_PG, 0.0)
    row, column = linear_sum_assignment(weight_PG, maximize=True)
    return int(equal_PG[row, column].sum())


def f1(matched: int, predicted: int, gold: int) -> float:
    """2·m / (|predicted| + |gold|), which is the harmonic mean of m/|predicted| and m/|gold|; 1 when both are empty."""
    return 2 * matched / (predicted + gold) if predicted + gold else 1.0
