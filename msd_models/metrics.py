"""Point metrics of a set of scored impressions: how well they rank, and how true their probabilities are.

Labels are 0 or 1 and scores are probabilities, both of length N. A metric that the rows do not define (an AUC of one
class, a PCOC without a click) is NaN, and whoever shows it says so.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating]
Labels = npt.NDArray[np.integer]
Codes = npt.NDArray[np.integer]
Flags = npt.NDArray[np.bool_]

ECE_BINS = 20
CHUNK_ROWS = 1 << 18
"""Sorted rows looked at together: what fits a processor's second cache."""


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

    Counted in whole pairs, so that it is exact and equals the bootstrap's AUC of an undisturbed sample. Score and label
    are one whole number each, sorted once in place: NumPy sorts those with vector instructions, and nothing is looked
    up afterwards (`benchmarks/metrics_auc.py`).
    """
    keys = _ordered(scores)
    keys <<= 1
    keys |= labels == 1
    keys.sort()
    num_positives, not_above, tied = 0, 0, 0
    for first, last in _whole_groups(keys, 1):
        places = np.flatnonzero(keys[first:last] & 1)
        # The positive at place i has i rows before it: the positives counted so far, and negatives not above it.
        not_above += int(places.sum()) + len(places) * first
        not_above -= num_positives * len(places) + len(places) * (len(places) - 1) // 2
        num_positives += len(places)
        tied += _tied_pairs(keys[first:last])
    num_pairs = num_positives * (len(keys) - num_positives)
    return (2 * not_above - tied) / (2 * num_pairs) if num_pairs else float("nan")


def negatives_beside(labels: Labels, scores: Floats) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """For each positive, in ascending score order: how many negatives score below it, and how many not above it."""
    negatives = np.sort(scores[labels == 0])
    positives = np.sort(scores[labels == 1])
    return negatives.searchsorted(positives, side="left"), negatives.searchsorted(positives, side="right")


def grouped_auc(labels: Labels, scores: Floats, users: Codes) -> GroupedAuc:
    """GAUC both ways; users are codes from 0 to 2^31. Users with one class are left out and counted."""
    keys = users.astype(np.uint64)
    keys <<= np.uint64(32)
    keys |= _ordered(scores) << 1
    keys |= labels == 1
    keys.sort()
    parts = [_within_users(keys[first:last]) for first, last in _whole_groups(keys, 32)]
    num_rows, num_clicks, user_aucs = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    is_mixed = (num_clicks > 0) & (num_clicks < num_rows)
    if not is_mixed.any():
        return GroupedAuc(by_impression=float("nan"), by_user=float("nan"), num_users=0, num_left_out=len(num_rows))
    return GroupedAuc(
        by_impression=float(np.average(user_aucs[is_mixed], weights=num_rows[is_mixed])),
        by_user=float(user_aucs[is_mixed].mean()),
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


def _ordered(scores: Floats) -> npt.NDArray[np.uint32]:
    """A new array of whole numbers below 2^31 in the order of the scores, equal where they are equal."""
    if scores.dtype == np.float32 and (not len(scores) or scores.min() >= 0):
        # The bits of non-negative floats are in their order; adding 0 makes a zero with a sign an ordinary one.
        return (scores + np.float32(0)).view(np.uint32)
    return np.unique(scores, return_inverse=True)[1].astype(np.uint32)


def _whole_groups(keys: npt.NDArray[np.unsignedinteger], bits: int) -> Iterator[tuple[int, int]]:
    """Runs of about CHUNK_ROWS sorted keys, from one row to another, that part no two keys equal above the low bits."""
    low_bits = keys.dtype.type((1 << bits) - 1)
    first = 0
    while first < len(keys):
        last = min(first + CHUNK_ROWS, len(keys))
        last = int(keys.searchsorted(keys[last - 1] | low_bits, side="right"))
        yield first, last
        first = last


def _tied_pairs(keys: npt.NDArray[np.uint32]) -> int:
    """Pairs of a positive and a negative with the same score among sorted keys."""
    starts = np.flatnonzero(np.r_[True, keys[1:] != keys[:-1]])
    num_rows = np.diff(np.r_[starts, len(keys)])
    values = keys[starts]
    mixed = np.flatnonzero((values[:-1] & 1 == 0) & (values[1:] == values[:-1] + 1))
    return int((num_rows[mixed] * num_rows[mixed + 1]).sum())


def _within_users(keys: npt.NDArray[np.uint64]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], Floats]:
    """Rows, clicks and AUC of each user among sorted keys of user, score and label; NaN where one class is missing."""
    users, is_click = keys >> np.uint64(32), (keys & np.uint64(1)).astype(np.int64)
    starts = np.flatnonzero(np.r_[True, users[1:] != users[:-1]])
    num_rows = np.diff(np.r_[starts, len(keys)])
    ranks = _tied_ranks(keys >> np.uint64(1)) - np.repeat(starts, num_rows)
    num_clicks = np.add.reduceat(is_click, starts)
    rank_sums = np.add.reduceat(ranks * is_click, starts)
    num_pairs = num_clicks * (num_rows - num_clicks)
    with np.errstate(invalid="ignore"):
        aucs = (rank_sums - num_clicks * (num_clicks + 1) / 2) / num_pairs
    return num_rows, num_clicks, aucs


def _tied_ranks(keys: npt.NDArray[np.uint64]) -> Floats:
    """Ranks from 1 over sorted keys; equal keys share their mean rank."""
    starts = np.flatnonzero(np.r_[True, keys[1:] != keys[:-1]])
    ends = np.r_[starts[1:], len(keys)]
    return np.repeat((starts + ends + 1) / 2, ends - starts)
