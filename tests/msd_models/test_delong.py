"""DeLong's variance against its definition written out pair by pair, and its intervals against the bootstrap's."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from msd_models.bootstrap import bootstrap_aucs, interval
from msd_models.delong import paired_interval, placements, variance_of_difference
from msd_models.metrics import auc


def wins(positives, negatives):
    """[P, M]: 1 where the positive scores higher, one half at a tie."""
    return (positives[:, None] > negatives[None, :]) + 0.5 * (positives[:, None] == negatives[None, :])


def variance_by_pairs(labels, runs_of_one, runs_of_other, users):
    """Obuchowski (1997), equation by equation, over all pairs."""
    is_positive = labels == 1
    kernel = np.mean([wins(run[is_positive], run[~is_positive]) for run in runs_of_one], axis=0)
    kernel = kernel - np.mean([wins(run[is_positive], run[~is_positive]) for run in runs_of_other], axis=0)
    theta, (num_positives, num_negatives) = kernel.mean(), kernel.shape
    sums = {user: [0.0, 0.0, 0, 0] for user in users.tolist()}
    for user, value in zip(users[is_positive].tolist(), kernel.mean(axis=1), strict=True):
        sums[user][0] += value - theta
        sums[user][2] += 1
    for user, value in zip(users[~is_positive].tolist(), kernel.mean(axis=0), strict=True):
        sums[user][1] += value - theta
        sums[user][3] += 1
    with_positives = sum(one[2] > 0 for one in sums.values())
    with_negatives = sum(one[3] > 0 for one in sums.values())
    everyone = len(sums)
    positive = with_positives / ((with_positives - 1) * num_positives) * sum(one[0] ** 2 for one in sums.values())
    negative = with_negatives / ((with_negatives - 1) * num_negatives) * sum(one[1] ** 2 for one in sums.values())
    both = everyone / (everyone - 1) * sum(one[0] * one[1] for one in sums.values())
    return positive / num_positives + negative / num_negatives + 2 * both / (num_positives * num_negatives)


def clustered(seed, num_users=12, mean_rows=5, digits=None):
    """Labels, users and two arms of two runs each; users differ in taste, arms in strength."""
    generator = np.random.default_rng(seed)
    users = np.repeat(np.arange(num_users), generator.poisson(mean_rows, num_users) + 1)
    taste = generator.normal(size=num_users)[users]
    labels = (generator.random(len(users)) < 1 / (1 + np.exp(-taste))).astype(np.int8)
    labels[:4], users[:4] = [0, 1, 0, 1], [0, 0, 1, 1]
    arms = [
        [1 / (1 + np.exp(-(strength * labels + taste + generator.normal(size=len(users))))) for _ in range(2)]
        for strength in (0.4, 0.8)
    ]
    return labels, users, [[np.round(run, digits) if digits else run for run in runs] for runs in arms]


@given(st.integers(0, 10_000), st.sampled_from([None, 1, 2]))
def test_variance_is_that_of_the_definition(seed, digits):
    labels, users, (one, other) = clustered(seed, digits=digits)
    placed = [placements(labels, runs) for runs in (one, other)]
    for clusters, known in ((users, users), (np.arange(len(labels)), None)):
        expected = variance_by_pairs(labels, one, other, clusters)
        assert variance_of_difference(*placed, labels, known) == pytest.approx(expected, rel=1e-9, abs=1e-15)


@given(st.integers(0, 10_000), st.sampled_from([None, 1]))
def test_the_mean_placement_is_the_mean_auc(seed, digits):
    labels, users, (one, other) = clustered(seed, digits=digits)
    placed = [placements(labels, runs) for runs in (one, other)]
    for arm, runs in zip(placed, (one, other), strict=True):
        assert arm.auc == pytest.approx(np.mean([auc(labels, run) for run in runs]))
        assert arm.negatives.mean() == pytest.approx(arm.auc)
    low, difference, high = paired_interval(*placed, labels, users)
    assert difference == placed[0].auc - placed[1].auc
    assert low <= difference <= high


@given(st.integers(0, 10_000))
def test_an_arm_does_not_differ_from_itself_and_order_changes_the_sign(seed):
    labels, users, (one, other) = clustered(seed)
    first, second = placements(labels, one), placements(labels, other)
    assert paired_interval(first, first, labels, users) == [0.0, 0.0, 0.0]
    there, back = paired_interval(first, second, labels, users), paired_interval(second, first, labels, users)
    assert there == pytest.approx([-end for end in reversed(back)])


def test_it_is_as_wide_as_the_bootstrap_over_users():
    ratios = []
    for seed in range(8):
        labels, users, (one, other) = clustered(seed, num_users=150, mean_rows=10)
        low, _, high = paired_interval(placements(labels, one), placements(labels, other), labels, users)
        aucs = bootstrap_aucs(labels, users, [*one, *other], rounds=600, seed=seed)
        drawn = interval(aucs[:, :2].mean(axis=1) - aucs[:, 2:].mean(axis=1))
        ratios.append((high - low) / (drawn[1] - drawn[0]))
    assert 0.93 < np.mean(ratios) < 1.07
    assert all(0.8 < ratio < 1.25 for ratio in ratios)


def test_users_who_depend_on_themselves_make_it_wider_than_rows_do():
    generator = np.random.default_rng(3)
    users = np.repeat(np.arange(60), 40)
    liking = generator.normal(size=60)[users]
    labels = (generator.random(len(users)) < 1 / (1 + np.exp(-2 * liking))).astype(np.int8)
    runs = [[liking + generator.normal(size=len(users))], [generator.normal(size=len(users))]]
    placed = [placements(labels, run) for run in runs]
    by_user = paired_interval(*placed, labels, users)
    by_row = paired_interval(*placed, labels, None)
    assert by_user[2] - by_user[0] > 1.5 * (by_row[2] - by_row[0])


def test_the_interval_holds_the_truth_about_as_often_as_it_says():
    truth = None
    hits = 0
    for seed in range(200):
        labels, users, (one, other) = clustered(seed, num_users=4000 if truth is None else 60)
        low, difference, high = paired_interval(placements(labels, one), placements(labels, other), labels, users)
        truth = difference if truth is None else truth
        hits += low <= truth <= high
    assert 180 <= hits <= 200
