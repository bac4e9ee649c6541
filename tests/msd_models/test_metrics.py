"""Metrics against definitions written out as loops."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from msd_models import metrics

FEW_SCORES = st.sampled_from([0.0, 0.1, 0.25, 0.25000003, 0.5, 0.75, 1.0])
ROWS = st.lists(st.tuples(st.integers(0, 1), FEW_SCORES | st.floats(0, 1), st.integers(0, 4)), min_size=1, max_size=40)


def columns(rows):
    labels, scores, users = zip(*rows, strict=True)
    return np.array(labels, dtype=np.int8), np.array(scores, dtype=np.float32), np.array(users)


def auc_by_pairs(labels, scores):
    positives, negatives = scores[labels == 1], scores[labels == 0]
    pairs = [1.0 if p > n else 0.5 if p == n else 0.0 for p in positives for n in negatives]
    return sum(pairs) / len(pairs) if pairs else math.nan


@given(ROWS)
def test_auc_is_the_share_of_ordered_pairs(rows):
    labels, scores, _ = columns(rows)
    assert metrics.auc(labels, scores) == pytest.approx(auc_by_pairs(labels, scores), nan_ok=True)


def test_auc_equals_scikit_learn_with_many_ties():
    from sklearn.metrics import roc_auc_score

    generator = np.random.default_rng(0)
    labels = generator.integers(0, 2, 5000).astype(np.int8)
    scores = np.round(generator.random(5000) + 0.1 * labels, 2).astype(np.float32)
    assert metrics.auc(labels, scores) == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)


@pytest.mark.parametrize("digits", [1, 4, None])
@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_auc_of_more_rows_than_are_looked_at_together_equals_scikit_learn(digits, kind):
    from sklearn.metrics import roc_auc_score

    generator = np.random.default_rng(2)
    labels = (generator.random(3 * metrics.CHUNK_ROWS + 5) < 0.3).astype(np.int8)
    scores = generator.random(len(labels)) * 0.8 + 0.1 * labels
    scores = (scores if digits is None else np.round(scores, digits)).astype(kind)
    before = scores.copy()
    assert metrics.auc(labels, scores) == pytest.approx(roc_auc_score(labels, scores), abs=1e-13)
    assert np.array_equal(scores, before), "the caller's scores are as they were"


def test_grouped_auc_of_a_user_with_more_rows_than_are_looked_at_together():
    generator = np.random.default_rng(3)
    users = np.r_[np.full(metrics.CHUNK_ROWS + 7, 5), generator.integers(0, 5, 1000)]
    labels = generator.integers(0, 2, len(users)).astype(np.int8)
    scores = np.round(generator.random(len(users)), 3).astype(np.float32)
    per_user = [metrics.auc(labels[users == user], scores[users == user]) for user in range(6)]
    grouped = metrics.grouped_auc(labels, scores, users)
    assert grouped.by_user == pytest.approx(np.mean(per_user))
    assert grouped.by_impression == pytest.approx(np.average(per_user, weights=np.bincount(users)))


def test_a_zero_with_a_sign_is_a_zero():
    assert metrics.auc(np.array([1, 0]), np.array([-0.0, 0.0], dtype=np.float32)) == 0.5


@given(ROWS, st.floats(0.1, 5))
def test_auc_depends_on_the_order_alone(rows, power):
    labels, scores, _ = columns(rows)
    ranks = np.unique(scores, return_inverse=True)[1].astype(np.float64)
    moved = np.exp(ranks / (len(rows) + 1)) ** power
    assert metrics.auc(labels, moved) == pytest.approx(metrics.auc(labels, scores), nan_ok=True)
    assert metrics.auc(labels, -scores) == pytest.approx(1 - metrics.auc(labels, scores), nan_ok=True)


@given(ROWS, st.randoms(use_true_random=False))
def test_grouped_auc_is_the_loop_over_users(rows, random):
    labels, scores, users = columns(rows)
    per_user = {user: auc_by_pairs(labels[users == user], scores[users == user]) for user in set(users.tolist())}
    mixed = {user: value for user, value in per_user.items() if not math.isnan(value)}
    grouped = metrics.grouped_auc(labels, scores, users)
    assert (grouped.num_users, grouped.num_left_out) == (len(mixed), len(per_user) - len(mixed))
    if not mixed:
        assert math.isnan(grouped.by_user)
        assert math.isnan(grouped.by_impression)
        return
    sizes = {user: int((users == user).sum()) for user in mixed}
    by_impression = sum(mixed[user] * sizes[user] for user in mixed) / sum(sizes.values())
    assert grouped.by_user == pytest.approx(sum(mixed.values()) / len(mixed))
    assert grouped.by_impression == pytest.approx(by_impression)
    shuffled = random.sample(range(len(rows)), len(rows))
    assert metrics.grouped_auc(labels[shuffled], scores[shuffled], users[shuffled]).by_user == pytest.approx(
        grouped.by_user
    )


def test_the_two_grouped_aucs_differ_when_users_are_of_different_size():
    users = np.array([0] * 10 + [1] * 2)
    labels = np.array([1] * 5 + [0] * 5 + [1, 0])
    scores = np.array([0.9] * 5 + [0.1] * 5 + [0.1, 0.9])
    grouped = metrics.grouped_auc(labels, scores, users)
    assert grouped.by_user == 0.5
    assert grouped.by_impression == pytest.approx(10 / 12)


def test_logloss_equals_scikit_learn():
    from sklearn.metrics import log_loss

    generator = np.random.default_rng(1)
    labels, scores = generator.integers(0, 2, 500), generator.random(500)
    assert metrics.logloss(labels, scores) == pytest.approx(log_loss(labels, scores))


def test_a_certain_and_wrong_score_costs_much_but_not_infinity():
    assert 30 < metrics.logloss(np.array([1, 0]), np.array([0.0, 1.0])) < 40


@given(ROWS, st.integers(1, 8))
def test_reliability_bins_hold_every_row_once_and_average_to_the_whole(rows, bins):
    labels, scores, _ = columns(rows)
    curve = metrics.reliability(labels, scores, bins)
    assert curve.num_rows.sum() == len(rows)
    assert len(curve.num_rows) <= bins
    assert np.average(curve.predicted, weights=curve.num_rows) == pytest.approx(scores.mean(), abs=1e-6)
    assert np.average(curve.observed, weights=curve.num_rows) == pytest.approx(labels.mean())
    assert (np.diff(curve.predicted) > -1e-9).all()


@given(ROWS, st.randoms(use_true_random=False))
def test_ece_does_not_depend_on_the_order_of_rows(rows, random):
    labels, scores, _ = columns(rows)
    shuffled = random.sample(range(len(rows)), len(rows))
    assert metrics.ece(labels[shuffled], scores[shuffled]) == pytest.approx(metrics.ece(labels, scores))


@settings(max_examples=20)
@given(st.integers(0, 10_000))
def test_calibrated_scores_have_pcoc_one_and_little_ece(seed):
    generator = np.random.default_rng(seed)
    scores = generator.random(20_000)
    labels = (generator.random(20_000) < scores).astype(np.int8)
    assert metrics.pcoc(labels, scores) == pytest.approx(1, abs=0.03)
    assert metrics.ece(labels, scores) < 0.025
    assert metrics.pcoc(labels, scores * 0.5) == pytest.approx(0.5, abs=0.015)
    assert metrics.ece(labels, scores * 0.5) == pytest.approx(0.25, abs=0.02)


def test_rela_impr_is_that_of_the_papers_table():
    assert metrics.rela_impr(0.7087, 0.6938) == pytest.approx(7.64, abs=0.1)
    assert metrics.rela_impr(0.6, 0.6) == 0
    assert math.isnan(metrics.rela_impr(0.6, 0.5))


def test_pcoc_without_a_click_is_undefined():
    assert math.isnan(metrics.pcoc(np.zeros(3), np.full(3, 0.5)))
