"""DeLong intervals of paired AUC differences, with the impressions of one user as one observation; no resampling.

An AUC is the mean of placements: of each positive, the share of negatives below it; of each negative, the share of
positives above it. The variance of a difference follows from the placements' own (DeLong and others 1988), and midranks
give those in three sorts (Sun & Xu 2014). Impressions of a user depend on each other, so placements are added up by
user first (Obuchowski 1997). The mean of AUCs over seeds is a mean of placements too. What it does not cover is that
other seeds would have trained other models: `bootstrap` does.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from msd_models.bootstrap import CONFIDENCE
from msd_models.metrics import Codes, Floats, Labels


@dataclass(frozen=True, kw_only=True)
class Placements:
    """Of N rows, P positives and M negatives, averaged over an arm's runs; the mean over either side is the AUC."""

    positives: Floats
    """[P]: share of negatives that score below, ties half; in row order."""
    negatives: Floats
    """[M]: share of positives that score above, ties half; in row order."""

    @property
    def auc(self) -> float:
        """The AUC, the mean over the runs."""
        return float(self.positives.mean())


def placements(labels: Labels, runs: Sequence[Floats]) -> Placements:
    """Placements of the rows, the mean over runs.

    Args:
        labels: [N], of both classes.
        runs: scores [N] of each seed.
    """
    from scipy.stats import rankdata

    is_positive = labels == 1
    num_positives = int(is_positive.sum())
    num_negatives = len(labels) - num_positives
    positives, negatives = np.zeros(num_positives), np.zeros(num_negatives)
    for scores in runs:
        ranks = rankdata(scores)
        positives += (ranks[is_positive] - rankdata(scores[is_positive])) / num_negatives
        negatives += 1 - (ranks[~is_positive] - rankdata(scores[~is_positive])) / num_positives
    return Placements(positives=positives / len(runs), negatives=negatives / len(runs))


def paired_interval(one: Placements, other: Placements, labels: Labels, users: Codes | None) -> list[float]:
    """[low, difference, high] of AUC(one) − AUC(other), by the normal distribution.

    Args:
        one: placements of the same rows.
        other: placements of the same rows.
        labels: [N].
        users: [N], codes 0..U-1; None takes the rows as independent, which is DeLong's own interval.
    """
    from scipy.stats import norm

    difference = one.auc - other.auc
    deviation = variance_of_difference(one, other, labels, users) ** 0.5
    reach = float(norm.ppf((1 + CONFIDENCE) / 2)) * deviation
    return [difference - reach, difference, difference + reach]


def variance_of_difference(one: Placements, other: Placements, labels: Labels, users: Codes | None) -> float:
    """Variance of AUC(one) − AUC(other) on the same rows; NaN where a class has a single user."""
    clusters = np.arange(len(labels)) if users is None else users
    from_positives, has_positives = _by_cluster(one.positives - other.positives, clusters[labels == 1], clusters)
    from_negatives, has_negatives = _by_cluster(one.negatives - other.negatives, clusters[labels != 1], clusters)
    has_rows = has_positives | has_negatives
    factors = [_correction(int(known.sum())) for known in (has_positives, has_negatives, has_rows)]
    return float(
        factors[0] * np.square(from_positives).sum()
        + factors[1] * np.square(from_negatives).sum()
        + 2 * factors[2] * (from_positives * from_negatives).sum()
    )


def _by_cluster(placed: Floats, clusters: Codes, all_clusters: Codes) -> tuple[Floats, np.ndarray]:
    """Σ (placement − mean) / count of each cluster, and whether the cluster has any."""
    num_clusters = int(all_clusters.max()) + 1
    sums = np.bincount(clusters, weights=placed - placed.mean(), minlength=num_clusters) / len(placed)
    return sums, np.bincount(clusters, minlength=num_clusters) > 0


def _correction(count: int) -> float:
    return count / (count - 1) if count > 1 else float("nan")
