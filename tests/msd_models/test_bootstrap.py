"""The bootstrap against rows that are really copied, and its intervals against the truth they claim to hold."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from msd_models.bootstrap import Resampled, bootstrap_aucs, draw_seeds, interval, rank_run
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


@pytest.mark.parametrize("runs_at_once", [1, 2, 3])
def test_every_block_of_runs_sees_the_same_resamples(runs_at_once):
    labels, scores, users = clustered(np.random.default_rng(2))
    runs = [scores, scores**2, scores, 1 - scores, scores]
    whole = bootstrap_aucs(labels, users, runs, rounds=40, seed=7)
    in_blocks = bootstrap_aucs(labels, users, runs, rounds=40, seed=7, held_rows=runs_at_once * len(labels))
    np.testing.assert_array_equal(in_blocks, whole)


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


def resampled(measured, drawn, seed=0):
    """Arms of S seeds in R rounds, with seeds drawn beside the users."""
    rounds, num_seeds = next(iter(drawn.values())).shape
    shares = draw_seeds(num_seeds, rounds=rounds, seed=seed)
    return Resampled(measured=measured, drawn=drawn, seed_shares=shares)


@given(st.integers(1, 6), st.integers(0, 1000))
def test_shares_of_seeds_sum_to_one_and_repeat(num_seeds, seed):
    shares = draw_seeds(num_seeds, rounds=40, seed=seed)
    assert shares.sum(axis=1) == pytest.approx(1)
    assert (shares >= 0).all()
    assert np.array_equal(shares, draw_seeds(num_seeds, rounds=40, seed=seed))


def test_drawing_one_seed_fewer_gives_the_spread_of_a_mean_without_bias():
    for num_seeds in (2, 3, 5):
        values = np.random.default_rng(num_seeds).normal(size=num_seeds)
        means = draw_seeds(num_seeds, rounds=40_000, seed=1) @ values
        assert means.var() == pytest.approx(values.var(ddof=1) / num_seeds, rel=0.05)
        assert means.mean() == pytest.approx(values.mean(), abs=0.02)


def test_seeds_that_differ_widen_the_interval_and_seeds_that_agree_do_not():
    generator = np.random.default_rng(0)
    users = generator.normal(0.7, 0.01, size=(2000, 1))
    same = {"a": np.repeat(users + 0.02, 3, axis=1), "b": np.repeat(users, 3, axis=1)}
    spread = {"a": same["a"] + np.array([0.0, 0.03, -0.03]), "b": same["b"]}
    measured = {"a": np.full(3, 0.72), "b": np.full(3, 0.7)}
    agreed = resampled(measured, same)
    assert agreed.difference("a", "b") == pytest.approx([0.02] * 3)
    low, middle, high = resampled(measured, spread).difference("a", "b")
    assert middle == pytest.approx(0.02)
    assert low < 0 < high, "two of the three trainings show a gain, one shows a loss: no gain may be claimed"
    assert resampled(measured, spread).difference("a", "b", with_seeds=False) == pytest.approx([0.02] * 3)


def test_seeds_are_paired_between_arms():
    luck = np.random.default_rng(1).normal(0, 0.05, size=(1, 4))
    drawn = {"a": np.full((500, 4), 0.6) + luck + 0.01, "b": np.full((500, 4), 0.6) + luck}
    measured = {name: rounds[0] for name, rounds in drawn.items()}
    both = resampled(measured, drawn)
    assert both.difference("a", "b") == pytest.approx([0.01] * 3)
    low, high = both.interval("a")
    assert high - low > 0.01


def test_share_of_a_gap_is_paired_and_undefined_rounds_are_left_out():
    generator = np.random.default_rng(2)
    base = generator.normal(0.6, 0.02, size=(400, 1))
    drawn = {"din": base, "gain": base + 0.1, "vanilla": base + 0.06}
    drawn["gain"][0] = base[0]
    measured = {name: np.array([value]) for name, value in (("din", 0.6), ("gain", 0.7), ("vanilla", 0.66))}
    assert resampled(measured, drawn).share_of_gap("vanilla", "din", "gain") == pytest.approx([0.6] * 3)


def test_a_slice_sees_the_users_that_the_whole_sees_in_the_same_round():
    labels, scores, users = clustered(np.random.default_rng(5), num_users=30)
    inside = users < 20
    some = bootstrap_aucs(labels[inside], users[inside], [scores[inside]], rounds=10, seed=3, num_users=30)
    generator = np.random.default_rng(3)
    for round_auc in some[:, 0]:
        weights = np.bincount(generator.integers(0, 30, 30), minlength=30).astype(float)
        expected = rank_run(labels[inside], scores[inside], users[inside]).auc(weights)
        assert round_auc == pytest.approx(expected, nan_ok=True)
