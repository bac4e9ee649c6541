"""Bootstrap intervals of AUC: ranks sorted once a run, against scikit-learn's AUC called on every resample.

Run: `python benchmarks/metrics_auc.py`. Both sides judge the same resamples of the same rows, in one process and one
thread each, in alternating rounds; the AUCs must agree to 1e-12.
"""

import time
from collections.abc import Callable

import numpy as np
import typer
from sklearn.metrics import roc_auc_score

from msd_models.bootstrap import RankedRun, rank_run

NUM_RUNS = 18
ROUNDS = 500
COMPARED_ROUNDS = 6


def main() -> None:
    """Prints the time of a round and of a whole report on both sides, and their ratio."""
    for num_rows, num_users in ((10_000, 200), (100_000, 5_000)):
        _compare(num_rows, num_users)


def _compare(num_rows: int, num_users: int) -> None:
    generator = np.random.default_rng(0)
    users = generator.integers(0, num_users, num_rows)
    labels = generator.integers(0, 2, num_rows).astype(np.int8)
    scores = (generator.random(num_rows) + 0.2 * labels).astype(np.float32)
    draws = [np.bincount(generator.integers(0, num_users, num_users), minlength=num_users) for _ in range(ROUNDS)]

    started = time.perf_counter()
    ranked = rank_run(labels, scores, users)
    sort_seconds = time.perf_counter() - started
    ours, peers, our_seconds, peer_seconds = [], [], [], []
    for draw in draws[:COMPARED_ROUNDS]:
        seconds, value = _timed(lambda draw=draw: roc_auc_score(labels, scores, sample_weight=draw[users]))
        peer_seconds.append(seconds)
        peers.append(value)
        seconds, value = _timed(lambda draw=draw: ranked.auc(draw.astype(np.float64)))
        our_seconds.append(seconds)
        ours.append(value)
    np.testing.assert_allclose(ours, peers, rtol=0, atol=1e-12)

    round_ours, round_peer = float(np.median(our_seconds)), float(np.median(peer_seconds))
    report_seconds = _whole_report(ranked, draws, sort_seconds)
    typer.echo(
        f"{num_rows:,} rows, {num_users:,} users: {round_ours * 1e3:.2f} ms a resample against scikit-learn's"
        f" {round_peer * 1e3:.2f} ms: ratio {round_peer / round_ours:.1f}; {NUM_RUNS} runs x {ROUNDS} resamples took"
        f" {report_seconds:.1f} s against {NUM_RUNS * ROUNDS * round_peer:.0f} s (from its median); the AUCs agree"
    )


def _whole_report(ranked: RankedRun, draws: list[np.ndarray], sort_seconds: float) -> float:
    started = time.perf_counter()
    for draw in draws:
        weights = draw.astype(np.float64)
        for _ in range(NUM_RUNS):
            ranked.auc(weights)
    return time.perf_counter() - started + NUM_RUNS * sort_seconds


def _timed(call: Callable[[], float]) -> tuple[float, float]:
    started = time.perf_counter()
    value = call()
    return time.perf_counter() - started, value


if __name__ == "__main__":
    main()
