"""AUC over many rows, and bootstrap intervals of it, against scikit-learn's roc_auc_score in the same run.

Run: `python benchmarks/metrics_auc.py`; `--rows` sets the size of the large one. Both sides read the same float32
scores in one process and one thread, in alternating rounds; medians are compared. The AUC over many rows counts whole
pairs and is exact: where scikit-learn's is another double, the line says by how much.
"""

import resource
import sys
import time
from collections.abc import Callable
from typing import Annotated, TypeVar

import numpy as np
import typer
from sklearn.metrics import roc_auc_score

from msd_models.bootstrap import RankedRun, rank_run
from msd_models.metrics import auc, grouped_auc

Result = TypeVar("Result")
NUM_RUNS = 18
ROUNDS = 500
COMPARED_ROUNDS = 5
COMPARED_ROWS = (100_000, 1_000_000, 10_000_000)


def main(
    rows: Annotated[int, typer.Option("--rows", help="Rows of the large AUC.")] = 100_000_000,
) -> None:
    """Prints times, memory and ratios."""
    for num_rows in COMPARED_ROWS:
        _compare_auc(num_rows)
    _large_auc(rows)
    for num_rows, num_users in ((10_000, 200), (100_000, 5_000)):
        _compare_bootstrap(num_rows, num_users)


def _made_up(num_rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Labels and float32 scores; above a few million rows most scores occur more than once."""
    generator = np.random.default_rng(0)
    labels = np.zeros(num_rows, dtype=np.int8)
    scores = np.empty(num_rows, dtype=np.float32)
    for first in range(0, num_rows, 10_000_000):
        part = slice(first, first + 10_000_000)
        labels[part] = generator.random(len(labels[part]), dtype=np.float32) < 0.2
        scores[part] = 0.8 * generator.random(len(labels[part]), dtype=np.float32) + 0.1 * labels[part]
    return labels, scores


def _compare_auc(num_rows: int) -> None:
    labels, scores = _made_up(num_rows)
    rounds = COMPARED_ROUNDS if num_rows <= 1_000_000 else 2
    ours, peer = [], []
    for _ in range(rounds):
        peer_seconds, expected = _timed(lambda: roc_auc_score(labels, scores))
        our_seconds, found = _timed(lambda: auc(labels, scores))
        peer.append(peer_seconds)
        ours.append(our_seconds)
    if abs(found - expected) > 1e-12:
        sys.exit(f"AUC {found!r} against scikit-learn's {expected!r}")
    same = "the same double" if found == expected else f"{abs(found - expected):.0e} apart"
    typer.echo(
        f"AUC of {num_rows:,} rows: {np.median(ours):.3f} s against scikit-learn's {np.median(peer):.3f} s: ratio"
        f" {np.median(peer) / np.median(ours):.1f}; {same}"
    )


def _large_auc(num_rows: int) -> None:
    labels, scores = _made_up(num_rows)
    before = _peak_gib()
    seconds, value = _timed(lambda: auc(labels, scores))
    after = _peak_gib()
    inputs = (labels.nbytes + scores.nbytes) / 2**30
    typer.echo(
        f"AUC of {num_rows:,} rows: {seconds:.2f} s, {num_rows / seconds / 1e6:.0f} million rows a second; peak memory"
        f" {after:.2f} GiB, {after - before:.2f} of it for this beside {inputs:.2f} of labels and scores ({value:.6f})"
    )
    users = np.random.default_rng(1).integers(0, num_rows // 50 + 1, num_rows, dtype=np.int32)
    seconds, grouped = _timed(lambda: grouped_auc(labels, scores, users))
    typer.echo(f"GAUC of the same rows in {grouped.num_users:,} users: {seconds:.1f} s; peak {_peak_gib():.2f} GiB")


def _compare_bootstrap(num_rows: int, num_users: int) -> None:
    labels, scores = _made_up(num_rows)
    generator = np.random.default_rng(1)
    users = generator.integers(0, num_users, num_rows)
    draws = [np.bincount(generator.integers(0, num_users, num_users), minlength=num_users) for _ in range(ROUNDS)]
    sort_seconds, ranked = _timed(lambda: rank_run(labels, scores, users))
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


def _peak_gib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def _timed(call: Callable[[], Result]) -> tuple[float, Result]:
    started = time.perf_counter()
    value = call()
    return time.perf_counter() - started, value


if __name__ == "__main__":
    typer.run(main)
