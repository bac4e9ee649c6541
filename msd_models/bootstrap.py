"""Intervals of AUC and of AUC differences: users are drawn with replacement, every run judged on the same draw.

The impressions of one user depend on each other, so the user is what is drawn (a cluster bootstrap). A draw is a count
per user, and the AUC of the drawn rows is a weighted AUC over ranks that never change: each run is sorted once, and a
round costs one gather and one cumulative sum instead of a sort (`benchmarks/metrics_auc.py`). Intervals are
percentile intervals: they cover who happens to be in the test rows, not the spread between training seeds.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from msd_models.metrics import Codes, Floats, Labels, negatives_beside
from pipeline.progress import track

CONFIDENCE = 0.95


@dataclass(frozen=True, kw_only=True)
class RankedRun:
    """One run's test rows, sorted by score for good; P positives, M negatives."""

    positive_users: Codes
    """[P], in ascending score order."""
    negative_users: Codes
    """[M], in ascending score order."""
    below: npt.NDArray[np.int64]
    """[P]: negatives that score below the positive."""
    not_above: npt.NDArray[np.int64]
    """[P]: negatives that do not score above it; differs from `below` by the ties."""
    is_tied: bool

    def auc(self, weights: Floats) -> float:
        """AUC with every row weighted by its user's weight; NaN where one class has no weight.

        Args:
            weights: [number of users], whole numbers as float64, in which sums of pairs up to 2^53 are exact.
        """
        mass = np.zeros(len(self.negative_users) + 1)
        np.cumsum(weights[self.negative_users], out=mass[1:])
        positive_weights = weights[self.positive_users]
        num_pairs = positive_weights.sum() * mass[-1]
        if num_pairs == 0:
            return float("nan")
        wins = _inner(positive_weights, mass[self.below])
        ties = _inner(positive_weights, mass[self.not_above]) - wins if self.is_tied else 0.0
        return float((wins + ties / 2) / num_pairs)


def rank_run(labels: Labels, scores: Floats, users: Codes) -> RankedRun:
    """Sorts one run's rows; users are codes 0..U-1."""
    order = np.argsort(scores, kind="stable")
    sorted_labels, sorted_users = labels[order], users[order]
    below, not_above = negatives_beside(labels, scores)
    return RankedRun(
        positive_users=sorted_users[sorted_labels == 1],
        negative_users=sorted_users[sorted_labels == 0],
        below=below,
        not_above=not_above,
        is_tied=not np.array_equal(below, not_above),
    )


def bootstrap_aucs(
    labels: Labels, users: Codes, runs: Sequence[Floats], *, rounds: int, seed: int
) -> npt.NDArray[np.float64]:
    """AUC of every run under every resample of the users.

    Args:
        labels: [N], shared by all runs.
        users: [N], codes 0..U-1.
        runs: scores [N] of each run.
        rounds: resamples.
        seed: of the resamples.

    Returns:
        [rounds, runs]; runs of one round saw the same users. A round that drew one class only is NaN throughout.
    """
    ranked = [rank_run(labels, scores, users) for scores in runs]
    num_users = int(users.max()) + 1 if len(users) else 0
    generator = np.random.default_rng(seed)
    aucs = np.full((rounds, len(runs)), np.nan)
    for number in track(range(rounds), "bootstrap", rounds, unit="rounds"):
        drawn = generator.integers(0, num_users, size=num_users)
        weights = np.bincount(drawn, minlength=num_users).astype(np.float64)
        aucs[number] = [run.auc(weights) for run in ranked]
    return aucs


def interval(samples: Floats, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Percentile interval of bootstrap samples, undefined rounds left out; NaN where none is left."""
    defined = samples[np.isfinite(samples)]
    if not len(defined):
        return float("nan"), float("nan")
    tail = (1 - confidence) / 2
    low, high = np.quantile(defined, [tail, 1 - tail])
    return float(low), float(high)


def _inner(left: Floats, right: Floats) -> float:
    # Not `@`: BLAS wakes all its threads for it, which costs ten times the work itself on a busy machine.
    return float(np.einsum("i,i->", left, right))
