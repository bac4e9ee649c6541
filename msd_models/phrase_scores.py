"""Phrase F1 of rows: micro and macro with intervals, by level, by list and by stratum.

Two phrases are equal when the cosine of their vectors passes τ. Each phrase is matched at most once, by the assignment
with the most pairs: greedy many-to-one matching would reward saying a phrase twice (docs/methods.md). For the same
reason a phrase that a row repeats counts once: against two gold phrases that are near each other, a copy of the phrase
that fits the first would otherwise be a free hit on the second.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from msd_models.phrases import Encode, count_matches, f1

Phrases = tuple[list[str], list[str]]
"""(explicit, implicit)"""
Counts = tuple[int, int, int]
"""(matched, predicted, gold)"""
Interval = tuple[float, float]
LISTS = ("explicit", "implicit")
TAIL = 2.5
"""Per cent left out on each side of a 95% interval."""


@dataclass(frozen=True, kw_only=True)
class ScoredRow:
    """What was said of one text, beside what should have been said."""

    level: str
    stratum: str
    predicted: Phrases
    gold: Phrases


@dataclass(frozen=True, kw_only=True)
class Measured:
    """F1 of a set of rows; a row's explicit and implicit phrases are matched together but for `by_list`."""

    micro: float
    """Over all phrases of all rows."""
    macro: float
    """Mean of the rows' F1."""
    micro_interval: Interval
    """95% percentile interval of a bootstrap over rows; (0, 0) without a row."""
    macro_interval: Interval
    by_level: dict[str, float]
    """Micro F1 of each level."""
    by_list: dict[str, float]
    """Micro F1 of `explicit` and of `implicit` phrases, each list matched against its own counterpart only."""
    by_stratum: dict[str, dict[str, tuple[float, int]]]
    """level → stratum → (micro F1, rows)."""
    rows: list[float]
    """F1 of each row, in order."""


def measure(
    rows: Sequence[ScoredRow], encode: Encode, threshold: float, *, rounds: int = 1000, seed: int = 0
) -> Measured:
    """F1 of predicted against gold phrases.

    Args:
        rows: in any order, which changes nothing but the order of `Measured.rows`.
        encode: texts → unit vectors; called once with all distinct phrases.
        threshold: τ, the cosine from which two phrases are equal.
        rounds: resamples behind the intervals.
        seed: of the resampling.
    """
    vectors = _Vectors(rows, encode)
    both = [vectors.count([*row.predicted[0], *row.predicted[1]], [*row.gold[0], *row.gold[1]], threshold)
            for row in rows]  # fmt: skip
    listed = {
        name: [vectors.count(row.predicted[place], row.gold[place], threshold) for row in rows]
        for place, name in enumerate(LISTS)
    }
    scores = [f1(*counts) for counts in both]
    micro_interval, macro_interval = _intervals(both, scores, rounds, seed)
    return Measured(
        micro=pooled(both),
        macro=float(np.mean(scores)) if scores else 0.0,
        micro_interval=micro_interval,
        macro_interval=macro_interval,
        by_level={level: pooled(_where(both, (row.level == level for row in rows))) for level in _levels(rows)},
        by_list={name: pooled(counts) for name, counts in listed.items()},
        by_stratum=_by_stratum(rows, both),
        rows=scores,
    )


def pooled(counts: Iterable[Counts]) -> float:
    """Micro F1: the counts of all rows added up; 0 without a row."""
    gathered = list(counts)
    return f1(*(sum(column) for column in zip(*gathered, strict=True))) if gathered else 0.0


def distinct(phrases: Iterable[str]) -> list[str]:
    """Each phrase once, whatever its case and spacing, in order and as first written."""
    kept: dict[str, str] = {}
    for phrase in phrases:
        kept.setdefault(" ".join(phrase.split()).casefold(), phrase)
    return list(kept.values())


class _Vectors:
    """The vectors of all phrases of a set of rows, each encoded once."""

    def __init__(self, rows: Sequence[ScoredRow], encode: Encode) -> None:
        said = {phrase for row in rows for side in (row.predicted, row.gold) for listed in side for phrase in listed}
        phrases = sorted(said)
        self._vectors_ND = encode(phrases) if phrases else np.zeros((0, 1), dtype=np.float32)
        self._place = {phrase: number for number, phrase in enumerate(phrases)}

    def count(self, predicted: Sequence[str], gold: Sequence[str], threshold: float) -> Counts:
        # Sorted, so that the order of two spellings does not choose which vector stands for both.
        said, wanted = distinct(sorted(predicted)), distinct(sorted(gold))
        said_PD, wanted_GD = self._of(said), self._of(wanted)
        return count_matches(said_PD @ wanted_GD.T, threshold), len(said), len(wanted)

    def _of(self, phrases: Sequence[str]) -> np.ndarray:
        return self._vectors_ND[[self._place[phrase] for phrase in phrases]]


def _intervals(counts: Sequence[Counts], scores: Sequence[float], rounds: int, seed: int) -> tuple[Interval, Interval]:
    """Intervals of micro and macro F1: rows drawn with replacement, one draw for both."""
    if not counts:
        return (0.0, 0.0), (0.0, 0.0)
    facts_N4 = np.column_stack([np.asarray(counts, dtype=np.float64), scores])
    generator = np.random.default_rng(seed)
    num_rows = len(counts)
    even = np.full(num_rows, 1 / num_rows)
    drawn_R4 = np.stack([generator.multinomial(num_rows, even) @ facts_N4 for _ in range(rounds)])
    matched_R, said_R, wanted_R, score_R = drawn_R4.T
    total_R = said_R + wanted_R
    micro_R = np.where(total_R > 0, 2 * matched_R / np.maximum(total_R, 1), 1.0)
    return _percentiles(micro_R), _percentiles(score_R / num_rows)


def _percentiles(values: np.ndarray) -> Interval:
    low, high = np.percentile(values, [TAIL, 100 - TAIL])
    return float(low), float(high)


def _by_stratum(rows: Sequence[ScoredRow], counts: Sequence[Counts]) -> dict[str, dict[str, tuple[float, int]]]:
    gathered: dict[str, dict[str, list[Counts]]] = {}
    for row, counted in zip(rows, counts, strict=True):
        gathered.setdefault(row.level, {}).setdefault(row.stratum, []).append(counted)
    return {
        level: {stratum: (pooled(counted), len(counted)) for stratum, counted in sorted(strata.items())}
        for level, strata in sorted(gathered.items())
    }


def _levels(rows: Sequence[ScoredRow]) -> list[str]:
    return sorted({row.level for row in rows})


def _where(counts: Sequence[Counts], chosen: Iterable[bool]) -> Iterator[Counts]:
    return (counted for counted, wanted in zip(counts, chosen, strict=True) if wanted)
