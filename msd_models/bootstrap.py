"""Intervals of AUC and of AUC differences: users and training seeds are drawn with replacement, for every arm alike.

The impressions of one user depend on each other, so the user is what is drawn (a cluster bootstrap). A draw is a count
per user, and the AUC of the drawn rows is a weighted AUC over ranks that never change: each run is sorted once, and a
round costs one gather and one cumulative sum instead of a sort (`benchmarks/metrics_auc.py`).

Another seed would have trained another model, often by as much as the gain in question. So each round also draws seeds,
the same ones for every arm. Of S seeds it draws S − 1: S would make the spread of their mean too small by (S − 1) / S,
a third at three seeds. Intervals are percentile intervals.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from msd_models.metrics import Codes, Floats, Labels, negatives_beside
from pipeline.progress import progress

CONFIDENCE = 0.95
HELD_ROWS = 50_000_000
"""Ranked rows of runs held at once, some 24 bytes each: memory does not grow with the number of runs."""


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


@dataclass(frozen=True, kw_only=True)
class Resampled:
    """AUCs of arms as measured and in every round, over S seeds; rounds R are the same for all arms."""

    measured: Mapping[str, Floats]
    """Arm → [S] on the undisturbed rows."""
    drawn: Mapping[str, Floats]
    """Arm → [R, S] on the drawn users."""
    seed_shares: Floats
    """[R, S]: how much each seed counts in a round; rows sum to 1."""

    def mean(self, arm: str) -> float:
        """AUC of an arm: the mean over its seeds."""
        return float(self.measured[arm].mean())

    def rounds(self, arm: str, *, with_seeds: bool = True) -> Floats:
        """AUC of an arm in each round, over the round's seeds, or over all of them without drawing seeds."""
        if not with_seeds:
            return self.drawn[arm].mean(axis=1)
        return (self.drawn[arm] * self.seed_shares).sum(axis=1)

    def interval(self, arm: str) -> list[float]:
        """[low, high] of the AUC."""
        return list(interval(self.rounds(arm)))

    def difference(self, arm: str, other: str, *, with_seeds: bool = True) -> list[float]:
        """[low, measured, high] of the paired difference arm − other."""
        low, high = interval(self.rounds(arm, with_seeds=with_seeds) - self.rounds(other, with_seeds=with_seeds))
        return [low, self.mean(arm) - self.mean(other), high]

    def share_of_gap(self, arm: str, low_arm: str, high_arm: str) -> list[float]:
        """[low, measured, high] of (arm − low_arm) / (high_arm − low_arm); means little where the gap may be 0."""
        base = self.rounds(low_arm)
        with np.errstate(divide="ignore", invalid="ignore"):
            shares = (self.rounds(arm) - base) / (self.rounds(high_arm) - base)
        measured = (self.mean(arm) - self.mean(low_arm)) / (self.mean(high_arm) - self.mean(low_arm))
        low, high = interval(shares)
        return [low, measured, high]


def draw_seeds(num_seeds: int, *, rounds: int, seed: int) -> Floats:
    """[rounds, num_seeds]: shares of each training seed in a round; a single seed stands for itself."""
    if num_seeds == 1:
        return np.ones((rounds, 1))
    drawn = np.random.default_rng([seed, num_seeds]).integers(0, num_seeds, size=(rounds, num_seeds - 1))
    counts = (drawn[:, :, None] == np.arange(num_seeds)).sum(axis=1)
    return counts / (num_seeds - 1)


def bootstrap_aucs(
    labels: Labels,
    users: Codes,
    runs: Sequence[Floats],
    *,
    rounds: int,
    seed: int,
    num_users: int | None = None,
    held_rows: int = HELD_ROWS,
) -> npt.NDArray[np.float64]:
    """AUC of every run under every resample of the users.

    Args:
        labels: [N], shared by all runs.
        users: [N], codes 0..U-1.
        runs: scores [N] of each run.
        rounds: resamples.
        seed: of the resamples.
        num_users: U; None takes it from the codes. A slice of the rows names it, so that it sees the users that the
            whole sees in the same round.
        held_rows: ranked rows in memory at once; runs beyond it are judged in further blocks, on the same resamples.

    Returns:
        [rounds, runs]; runs of one round saw the same users. A round that drew one class only is NaN throughout.
    """
    if num_users is None:
        num_users = int(users.max()) + 1 if len(users) else 0
    aucs = np.full((rounds, len(runs)), np.nan)
    runs_at_once = max(1, held_rows // max(1, len(labels)))
    with progress("bootstrap", rounds * len(runs), unit="resamples") as advance:
        for first in range(0, len(runs), runs_at_once):
            block = slice(first, first + runs_at_once)
            ranked = [rank_run(labels, scores, users) for scores in runs[block]]
            # The same seed again for every block: all runs see the same users in the same round.
            generator = np.random.default_rng(seed)
            for number in range(rounds):
                drawn = generator.integers(0, num_users, size=num_users)
                weights = np.bincount(drawn, minlength=num_users).astype(np.float64)
                aucs[number, block] = [run.auc(weights) for run in ranked]
                advance(len(ranked))
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
