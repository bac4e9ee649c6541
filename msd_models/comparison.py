"""The arms side by side: every metric, its interval, and the paired difference to what it must be compared with.

A metric of an arm is the mean over its seeds. Intervals come from `bootstrap`: every arm and seed is judged on the same
resamples of the test users, and a difference is the mean over seeds of the differences within a resample. The middle of
`[lo, mean, hi]` is the difference on the undisturbed test rows, so it is exactly the difference of the AUC column.
"""

from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Any

import numpy as np

from msd_models import metrics
from msd_models.bootstrap import bootstrap_aucs, interval
from msd_models.metrics import Codes, Floats, Labels
from msd_models.scores import ScoredRows

BASE_ARM = "deepfm"
"""RelaImpr is measured against it, as in the papers."""
TABULAR_ARMS = ("deepfm", "din", "dcnv2")
PLACEBO_ARMS = ("random_vectors", "shuffled_vectors", "raw_text")
EXPOSURE_EDGES = (0, 1, 5, 20, 100, 500)
"""Lower ends of the exposure buckets: items never shown in the training window, shown 1 to 4 times, and so on."""
RELIABILITY_BINS = 10


class ArmKind(StrEnum):
    """What an arm is in the comparison."""

    TABULAR = "tabular"
    PLACEBO = "placebo"
    SEMANTIC = "semantic"


def kind_of(arm: str) -> ArmKind:
    """Tabular arms read no vectors, placebos read vectors without a teacher's knowledge, all others are semantic."""
    if arm in TABULAR_ARMS:
        return ArmKind.TABULAR
    return ArmKind.PLACEBO if arm in PLACEBO_ARMS else ArmKind.SEMANTIC


def compare_arms(rows: ScoredRows, *, rounds: int, seed: int) -> list[dict[str, Any]]:
    """One entry per arm, as report.json holds it under `arms`."""
    arms = list(rows.scores)
    runs = [scores for arm in arms for scores in rows.scores[arm]]
    sampled = bootstrap_aucs(rows.labels, rows.users, runs, rounds=rounds, seed=seed)
    by_arm = dict(zip(arms, sampled.reshape(rounds, len(arms), len(rows.seeds)).mean(axis=2).T, strict=True))
    aucs = {arm: [metrics.auc(rows.labels, scores) for scores in rows.scores[arm]] for arm in arms}
    means = {arm: float(np.mean(values)) for arm, values in aucs.items()}
    return [
        {
            "name": arm,
            "kind": str(kind_of(arm)),
            "auc": means[arm],
            "auc_ci": list(interval(by_arm[arm])),
            "auc_by_seed": aucs[arm],
            **_point_metrics(rows, arm),
            "rela_impr": metrics.rela_impr(means[arm], means[BASE_ARM]) if BASE_ARM in means else None,
            "delta_auc_vs": {
                other: _difference(by_arm, means, arm, other) for other in _compared_with(arm) if other in by_arm
            },
            **_training_facts(rows.runs[arm]),
        }
        for arm in arms
    ]


def exposure_buckets(rows: ScoredRows, exposures: Mapping[str, int]) -> list[dict[str, Any]]:
    """AUC of each arm on the test rows of items shown rarely or often in the training window.

    Args:
        rows: the test rows.
        exposures: of each item in the training window; an item without an entry was never shown.

    Returns:
        One entry per bucket that holds rows, coldest first; an AUC is None where the bucket holds one class only.
    """
    counts = np.array([exposures.get(item, 0) for item in rows.item_ids.to_pylist()])
    members = np.searchsorted(EXPOSURE_EDGES, counts, side="right") - 1
    items = np.array(rows.item_ids.dictionary_encode().indices)
    buckets = []
    for number, low in enumerate(EXPOSURE_EDGES):
        inside = members == number
        if not inside.any():
            continue
        high = EXPOSURE_EDGES[number + 1] - 1 if number + 1 < len(EXPOSURE_EDGES) else None
        labels = rows.labels[inside]
        buckets.append(
            {
                "exposures": [low, high],
                "rows": int(inside.sum()),
                "clicks": int(labels.sum()),
                "items": len(np.unique(items[inside])),
                "auc": {
                    arm: float(np.mean([metrics.auc(labels, run[inside]) for run in scores]))
                    for arm, scores in rows.scores.items()
                },
            }
        )
    return buckets


def reliability_curves(rows: ScoredRows) -> dict[str, dict[str, list[float]]]:
    """Predicted against observed click rate of each arm, all seeds' rows together."""
    labels = np.tile(rows.labels, len(rows.seeds))
    curves = {arm: metrics.reliability(labels, runs.ravel(), RELIABILITY_BINS) for arm, runs in rows.scores.items()}
    return {
        arm: {"predicted": curve.predicted.tolist(), "observed": curve.observed.tolist()}
        for arm, curve in curves.items()
    }


def _point_metrics(rows: ScoredRows, arm: str) -> dict[str, Any]:
    def over_seeds(metric: Callable[[Labels, Floats], float]) -> float:
        return float(np.mean([metric(rows.labels, scores) for scores in rows.scores[arm]]))

    grouped = [_grouped(rows.labels, scores, rows.users) for scores in rows.scores[arm]]
    return {
        "gauc_impression": float(np.mean([one.by_impression for one in grouped])),
        "gauc_user": float(np.mean([one.by_user for one in grouped])),
        "gauc_users": grouped[0].num_users,
        "gauc_users_left_out": grouped[0].num_left_out,
        "logloss": over_seeds(metrics.logloss),
        "pcoc": over_seeds(metrics.pcoc),
        "ece": over_seeds(metrics.ece),
    }


def _grouped(labels: Labels, scores: Floats, users: Codes) -> metrics.GroupedAuc:
    return metrics.grouped_auc(labels, scores, users)


def _compared_with(arm: str) -> tuple[str, ...]:
    others = TABULAR_ARMS if kind_of(arm) is ArmKind.TABULAR else TABULAR_ARMS + PLACEBO_ARMS
    return tuple(other for other in others if other != arm)


def _difference(by_arm: Mapping[str, Floats], means: Mapping[str, float], arm: str, other: str) -> list[float]:
    low, high = interval(by_arm[arm] - by_arm[other])
    return [low, means[arm] - means[other], high]


def _training_facts(runs: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "params": runs[0].get("params"),
        "train_seconds": _mean(runs, "train_seconds"),
        "samples_per_second": _mean(runs, "samples_per_second"),
        "epochs": [run.get("epochs") for run in runs],
        "best_epoch": [run.get("best_epoch") for run in runs],
    }


def _mean(runs: list[dict[str, Any]], key: str) -> float | None:
    values = [run[key] for run in runs if run.get(key) is not None]
    return float(np.mean(values)) if values else None
