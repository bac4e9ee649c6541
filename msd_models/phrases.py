"""Phrase lists: cleaning, and how many phrases of two lists match one to one by the cosine of their vectors.

Two phrases are equal when the cosine of their vectors passes τ. Each phrase is matched at most once, by the assignment
of largest total similarity: greedy many-to-one matching would reward repeating a phrase (docs/methods.md).
"""

from collections.abc import Callable, Iterable, Sequence

import numpy as np

MAX_PHRASE_CHARACTERS = 80
"""What is longer is a sentence, not a phrase."""
ROUNDING = 1e-5
"""Slack of the threshold: the cosine of a phrase with itself is 1 within float32 rounding."""
MARKS = " \t\"'`*•-–,;:.|[]{}"
LOOSE_ENDS = frozenset({"a", "an", "and", "as", "at", "by", "for", "from", "in", "is", "its", "of", "on", "or", "that",
                        "the", "this", "to", "with"})  # fmt: skip
"""Words no phrase ends with: a model whose phrase is closed for its length leaves them hanging."""
Encode = Callable[[Sequence[str]], np.ndarray]
"""Texts → unit vectors [N, D]."""


def clean_phrases(phrases: Iterable[object]) -> list[str]:
    """Phrases stripped of space, quotes, bullets and loose ends; empty, overlong and repeated ones are left out."""
    kept: dict[str, str] = {}
    for phrase in phrases:
        if isinstance(phrase, str):
            text = _trimmed(phrase)
            if text and len(text) <= MAX_PHRASE_CHARACTERS and any(c.isalnum() for c in text):
                kept.setdefault(text.casefold(), text)
    return list(kept.values())


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


def _trimmed(phrase: str) -> str:
    """Without marks around it and loose ends after it, which may uncover marks again."""
    text = " ".join(phrase.split()).strip(MARKS)
    head, _, last = text.rpartition(" ")
    return _trimmed(head) if head and last.casefold() in LOOSE_ENDS else text
