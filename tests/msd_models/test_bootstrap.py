"""The bootstrap against rows that are really copied, and its intervals against the truth they claim to hold."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from msd_models.bootstrap import bootstrap_aucs, interval, rank_run
from msd_models.metrics import auc


def clustered(generator, num_users=60, mean_rows=12, effect=0.4):
    """Impressions whose users have their own click rate and their own bias in the score."""
    users = np.repeat(np.arange(num_users), generator.poisson(mean_rows, num_users) + 1)
    taste = generator.normal(size=num_users)[users]
    labels = (generator.random(len(users)) < 1 / (1 + np.exp(-taste))).astype(np.int8)
    scores = 1 / (1 + np.exp(-(effect * taste + generator.normal(size=len(users)) + 0.3 * labels)))
    return labels, scores, users


@given(st.integers(0, 10_000), st.booleans())
def test_weighted_auc_is_the_auc_of_copied_rows(seed, has_ties):
    generator = np.random.default_rng(seed)
    labels, scores, users = clustered(generator, num_users=8, mean_rows=4)
    if has_ties:
        scores = np.round(scores, 1)
    drawn = generator.integers(0, 8, 8)
    rows = np.concatenate([np.flatnonzero(users == user) for user in drawn])
    weights = np.bincount(drawn, minlength=8).astype(np.float64)
    expected = auc(labels[rows], scores[rows])
    assert rank_run(labels, scores, users).auc(weights) == pytest.approx(expected, nan_ok=True, abs=1e-12)


def test_weights_of_one_give_the_plain_auc():
    labels, scores, users = clustered(np.random.default_rng(1))
    assert rank_run(labels, scores, users).auc(np.ones(60)) == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)


def test_identical_runs_differ_by_nothing_in_every_round():
    labels, scores, users = clustered(np.random.default_rng(2))
    aucs = bootstrap_aucs(labels, users, [scores, scores.copy()], rounds=50, seed=0)
    assert interval(aucs[:, 0] - aucs[:, 1]) == (0.0, 0.0)


def test_the_same_seed_gives_the_same_rounds_whatever_other_runs_are_judged():
    labels, scores, users = clustered(np.random.default_rng(3))
    alone = bootstrap_aucs(labels, users, [scores], rounds=20, seed=5)
    beside = bootstrap_aucs(labels, users, [1 - scores, scores], rounds=20, seed=5)
    assert np.array_equal(alone[:, 0], beside[:, 1])
    assert not np.array_equal(alone, bootstrap_aucs(labels, users, [scores], rounds=20, seed=6))


def test_a_round_of_one_class_is_undefined_and_left_out_of_the_interval():
    labels, scores, users = np.array([1, 1, 0, 0]), np.array([0.9, 0.8, 0.2, 0.1]), np.array([0, 0, 1, 1])
    aucs = bootstrap_aucs(labels, users, [scores, scores], rounds=60, seed=0)
    assert np.isnan(aucs).any()
    assert (np.isnan(aucs[:, 0]) == np.isnan(aucs[:, 1])).all()
    assert interval(aucs[:, 0]) == (1.0, 1.0)


def test_no_defined_round_gives_no_interval():
    assert np.isnan(interval(np.array([np.nan, np.nan]))).all()


def test_the_interval_holds_the_true_auc_about_as_often_as_it_says():
    big = clustered(np.random.default_rng(10), num_users=20_000)
    truth = auc(big[0], big[1])
    hits = 0
    for seed in range(100):
        labels, scores, users = clustered(np.random.default_rng(1000 + seed), num_users=80)
        low, high = interval(bootstrap_aucs(labels, users, [scores], rounds=120, seed=seed)[:, 0])
        hits += low <= truth <= high
    assert 86 <= hits <= 100


def test_resampling_users_is_wider_than_pretending_rows_are_independent():
    labels, scores, users = clustered(np.random.default_rng(4), num_users=40, mean_rows=60, effect=1.5)
    by_user = interval(bootstrap_aucs(labels, users, [scores], rounds=300, seed=0)[:, 0])
    by_row = interval(bootstrap_aucs(labels, np.arange(len(users)), [scores], rounds=300, seed=0)[:, 0])
    assert by_user[1] - by_user[0] > 1.5 * (by_row[1] - by_row[0])
