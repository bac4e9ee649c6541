"""Point metrics of a set of scored impressions: how well they rank, and how true their probabilities are.

Labels are 0 or 1 and scores are probabilities, both of length N. A metric that the rows do not define (an AUC of one
class, a PCOC without a click) is NaN, and whoever shows it says so.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating]
Labels = npt.NDArray[np.integer]
Codes = npt.NDArray[np.integer]

ECE_BINS = 20


@dataclass(frozen=True, kw_only=True)
class GroupedAuc:
    """AUC inside each user, averaged in two ways that must not be confused."""

    by_impression: float
    """Mean of the users' AUCs weighted by their impressions: what the literature calls GAUC."""
    by_user: float
    """Plain mean of the users' AUCs."""
    num_users: int
    """Users with both classes, whose AUC is defined."""
    num_left_out: int
    """Users with one class only, who rank nothing."""


@dataclass(frozen=True, kw_only=True)
class Reliability:
    """Equal-mass bins of the predicted probability, in ascending order."""

    predicted: Floats
    """Mean predicted probability of each bin."""
    observed: Floats
    """Share of clicks in each bin."""
    num_rows: npt.NDArray[np.int64]


def auc(labels: Labels, scores: Floats) -> float:
    """Share of (click, no click) pairs in which the click scores higher, a tie counting one half.

    Counted in whole pairs, so that it is exact and equals the bootstrap's AUC of an undisturbed sample.
    """
    below, not_above = negatives_beside(labels, scores)
    num_pairs = len(below) * (len(labels) - len(below))
    return float((below.sum() + not_above.sum()) / 2 / num_pairs) if num_pairs else float("nan")


def negatives_beside(labels: Labels, scores: Floats) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """For each positive, in ascending score order: how many negatives score below it, and how many not above it."""
    negatives = np.sort(scores[labels == 0])
    positives = np.sort(scores[labels == 1])
    return negatives.searchsorted(positives, side="left"), negatives.searchsorted(positives, side="right")


def grouped_auc(labels: Labels, scores: Floats, users: Codes) -> GroupedAuc:
    """GAUC both ways; users may be any integer codes. Users with one class are left out and counted."""
    order = np.lexsort((scores, users))
    users, scores, labels = users[order], scores[order], labels[order]
    user_starts = np.flatnonzero(np.r_[True, users[1:] != users[:-1]])
    num_rows = np.diff(np.r_[user_starts, len(users)])
    ranks = _tied_ranks(users, scores) - np.repeat(user_starts, num_rows)
    num_clicks = np.add.reduceat(labels.astype(np.int64), user_starts)
    rank_sums = np.add.reduceat(ranks * labels, user_starts)
    is_mixed = (num_clicks > 0) & (num_clicks < num_rows)
    if not is_mixed.any():
        return GroupedAuc(by_impression=float("nan"), by_user=float("nan"), num_users=0, num_left_out=len(user_starts))
    clicks, rows = num_clicks[is_mixed], num_rows[is_mixed]
    user_aucs = (rank_sums[is_mixed] - clicks * (clicks + 1) / 2) / (clicks * (rows - clicks))
    return GroupedAuc(
        by_impression=float(np.average(user_aucs, weights=rows)),
        by_user=float(user_aucs.mean()),
        num_users=int(is_mixed.sum()),
        num_left_out=int((~is_mixed).sum()),
    )


def logloss(labels: Labels, scores: Floats) -> float:
    """Mean negative log-likelihood in nats; scores of 0 and 1 are moved inwards by one float64 epsilon."""
    bound = np.finfo(np.float64).eps
    clipped = np.clip(scores.astype(np.float64), bound, 1 - bound)
    return float(-np.mean(np.where(labels == 1, np.log(clipped), np.log1p(-clipped))))


def pcoc(labels: Labels, scores: Floats) -> float:
    """Predicted clicks over observed clicks: 1 is calibrated on the whole, above 1 promises too much."""
    clicks = float(labels.sum())
    return float(scores.sum(dtype=np.float64) / clicks) if clicks else float("nan")


def ece(labels: Labels, scores: Floats, bins: int = ECE_BINS) -> float:
    """Expected calibration error: mean distance of predicted and observed over equal-mass bins, weighted by rows."""
    curve = reliability(labels, scores, bins)
    return float(np.average(np.abs(curve.predicted - curve.observed), weights=curve.num_rows))


def reliability(labels: Labels, scores: Floats, bins: int = ECE_BINS) -> Reliability:
    """Predicted against observed click rate in bins of equal mass.

    Equal scores always share a bin, so the order of the rows changes nothing; with many ties there are fewer bins.
    """
    from scipy.stats import rankdata

    positions = ((rankdata(scores) - 0.5) * bins / len(scores)).astype(np.int64)
    _, members, num_rows = np.unique(positions, return_inverse=True, return_counts=True)
    predicted = np.bincount(members, weights=scores.astype(np.float64)) / num_rows
    observed = np.bincount(members, weights=labels.astype(np.float64)) / num_rows
    return Reliability(predicted=predicted, observed=observed, num_rows=num_rows)


def rela_impr(score: float, base: float) -> float:
    """RelaImpr in percent: ((AUC − 0.5) / (AUC_base − 0.5) − 1) · 100; NaN where the base is no better than chance."""
    return ((score - 0.5) / (base - 0.5) - 1) * 100 if base > 0.5 else float("nan")


def _tied_ranks(users: Codes, scores: Floats) -> Floats:
    """Ranks from 1 over rows sorted by user and score; rows equal in both share their mean rank."""
    is_start = np.r_[True, (users[1:] != users[:-1]) | (scores[1:] != scores[:-1])]
    starts = np.flatnonzero(is_start)
    ends = np.r_[starts[1:], len(users)]
    return np.repeat((starts + ends + 1) / 2, ends - starts)
