"""How much of what the teacher says a plain text vector knows already: cross-validated R² of a ridge regression.

From the sentence vector of the raw text to the mean vector of the teacher's phrases. What is predicted lies in the text
vector, for a click model with clicks enough to find it there; what is not predicted is knowledge or noise, and the
regression cannot tell which. The same on rows dealt to the wrong texts stands beside it as a placebo and must
come out near nought: where it does not, there are too few rows to say anything. R² is a lower bound, since a regression
on more rows finds more.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from msd_models.phrases import Encode
from msd_models.stable_sample import stable_hash

MIN_ROWS = 30
"""Fewer rows leave folds of a handful, whose R² says nothing."""
SAME = 1e-6
"""Phrase vectors closer than this in every number are one: nothing is left to predict."""
PENALTIES = tuple(10.0**power for power in range(-2, 5))
ROUNDS = 1000
TAIL = 2.5
# N rows, D dimensions, R bootstrap rounds


@dataclass(frozen=True, kw_only=True)
class ProbeRow:
    """A text and the phrases the teacher found in one of its lists."""

    key: str
    """Id that decides the fold."""
    text: str
    phrases: list[str]


@dataclass(frozen=True, kw_only=True)
class Redundancy:
    """R² over all rows held out, 1 for a perfect prediction, 0 for one no better than the mean of the other folds."""

    rows: int
    r2: float
    interval: tuple[float, float]
    """95% percentile interval of a bootstrap over rows, folds and regressions kept as they are."""
    placebo_r2: float
    placebo_interval: tuple[float, float]


def redundancy(rows: Sequence[ProbeRow], encode: Encode, *, folds: int, seed: int) -> Redundancy | None:
    """The share of the teacher's phrase vectors that the texts' vectors predict.

    Args:
        rows: those without a phrase are left out.
        encode: texts → unit vectors.
        folds: of the cross-validation, 2 or more; a row's fold is a hash of its key.
        seed: of the folds, of the placebo's shuffling and of the bootstrap.

    Returns:
        None with fewer than MIN_ROWS rows, or where all rows say the same.
    """
    used = [row for row in rows if row.phrases]
    if len(used) < max(MIN_ROWS, folds):
        return None
    texts_ND = encode([row.text for row in used]).astype(np.float64)
    said_ND = _mean_vectors(used, encode)
    if np.ptp(said_ND, axis=0).max() < SAME:
        return None
    fold_N = np.array([_fold(row.key, folds, seed) for row in used])
    generator = np.random.default_rng(seed)
    r2, interval = _r2(texts_ND, said_ND, fold_N, generator)
    placebo, placebo_interval = _r2(texts_ND, said_ND[generator.permutation(len(used))], fold_N, generator)
    return Redundancy(rows=len(used), r2=r2, interval=interval, placebo_r2=placebo, placebo_interval=placebo_interval)


def sentence(level: str, listed: str, found: Redundancy) -> str:
    """What the number means, for a person."""
    low, high = found.interval
    if found.placebo_interval[1] > low:
        return (
            f"Of {level} rows there are too few ({found.rows:,}) to say how much of the {listed} phrases the text's"
            f" vector knows: R² {found.r2:.2f} [{low:.2f}, {high:.2f}], placebo {found.placebo_r2:.2f}."
        ).replace("-", "−")
    return (
        f"Learned from {found.rows:,} rows, a plain vector of the text predicts {found.r2:.0%} [{low:.0%}, {high:.0%}]"
        f" of what tells the {listed} phrases of one {level} from those of another (placebo"
        f" {abs(round(found.placebo_r2, 2)):.0%}). More rows can only show more; the rest is knowledge beyond that"
        " vector, or noise."
    )


def _mean_vectors(rows: Sequence[ProbeRow], encode: Encode) -> np.ndarray:
    phrases = sorted({phrase for row in rows for phrase in row.phrases})
    place = {phrase: number for number, phrase in enumerate(phrases)}
    vectors_PD = encode(phrases).astype(np.float64)
    return np.stack([vectors_PD[[place[phrase] for phrase in row.phrases]].mean(axis=0) for row in rows])


def _r2(
    texts_ND: np.ndarray, said_ND: np.ndarray, fold_N: np.ndarray, generator: np.random.Generator
) -> tuple[float, tuple[float, float]]:
    missed_N, spread_N = _held_out_squares(texts_ND, said_ND, fold_N)
    num_rows = len(missed_N)
    even = np.full(num_rows, 1 / num_rows)
    both_N2 = np.column_stack([missed_N, spread_N])
    drawn_R2 = np.stack([generator.multinomial(num_rows, even) @ both_N2 for _ in range(ROUNDS)])
    low, high = np.percentile(1 - drawn_R2[:, 0] / drawn_R2[:, 1], [TAIL, 100 - TAIL])
    return float(1 - missed_N.sum() / spread_N.sum()), (float(low), float(high))


def _held_out_squares(texts_ND: np.ndarray, said_ND: np.ndarray, fold_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Squared distance of each row's vector to its prediction and to the mean of the other folds."""
    from sklearn.linear_model import RidgeCV

    missed_N, spread_N = np.zeros(len(said_ND)), np.zeros(len(said_ND))
    for fold in np.unique(fold_N):
        held_N = fold_N == fold
        model = RidgeCV(alphas=PENALTIES).fit(texts_ND[~held_N], said_ND[~held_N])
        missed_N[held_N] = ((said_ND[held_N] - model.predict(texts_ND[held_N])) ** 2).sum(axis=1)
        spread_N[held_N] = ((said_ND[held_N] - said_ND[~held_N].mean(axis=0)) ** 2).sum(axis=1)
    return missed_N, spread_N


def _fold(key: str, folds: int, seed: int) -> int:
    return stable_hash(f"probe\0{seed}", key) % folds
