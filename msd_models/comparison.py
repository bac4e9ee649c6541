"""The arms side by side: every metric, its interval, and the paired difference to what it must be compared with.

A metric of an arm is the mean over its seeds. Intervals come from `bootstrap`: every arm is judged on the same
resamples of the test users and of the seeds, and a difference is taken within a resample. Of `[lo, mean, hi]` the
middle is the difference on the undisturbed test rows, so it is exactly the difference of the AUC column. Beside it
stand the interval over users alone and DeLong's, which needs no resampling: both are about users, so they must nearly
agree.
"""

from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from typing import Any

import numpy as np

from msd_models import metrics
from msd_models.bootstrap import Resampled, bootstrap_aucs, draw_seeds
from msd_models.delong import paired_interval, placements
from msd_models.metrics import Flags, Floats, Labels
from msd_models.scores import ScoredRows

BASE_ARM = "deepfm"
"""RelaImpr is measured against it, as in the papers."""
PLACEBO_VECTORS = ("random", "shuffled", "raw_text")
"""Vectors that hold nothing of a teacher's knowledge, or hold it for the wrong entity."""
RELIABILITY_BINS = 10


class ArmKind(StrEnum):
    """What an arm is in the comparison."""

    TABULAR = "tabular"
    """Reads no vectors."""
    PLACEBO = "placebo"
    """Reads vectors without a teacher's knowledge."""
    SEMANTIC = "semantic"
    """Reads vectors with it."""
    DISTILLED = "distilled"
    """Reads no vectors and learns from an arm that does (ELEC)."""


def kind_of(run: Mapping[str, Any]) -> ArmKind:
    """What an arm is, by what training wrote of one of its runs."""
    if run["learns_from"]:
        return ArmKind.DISTILLED
    if run["module"] == "none":
        return ArmKind.TABULAR
    return ArmKind.PLACEBO if run["vectors"] in PLACEBO_VECTORS else ArmKind.SEMANTIC


def kinds_of(rows: ScoredRows) -> dict[str, ArmKind]:
    """Arm → what it is."""
    return {arm: kind_of(runs[0]) for arm, runs in rows.runs.items()}


def compare_arms(rows: ScoredRows, *, rounds: int, seed: int) -> list[dict[str, Any]]:
    """One entry per arm, as report.json holds it under `arms`."""
    return describe(rows, resample(rows, list(rows.scores), rounds=rounds, seed=seed))


def describe(rows: ScoredRows, resampled: Resampled) -> list[dict[str, Any]]:
    """What `compare_arms` gives, from resamples of all arms that are there already."""
    arms = list(rows.scores)
    kinds = kinds_of(rows)
    base = relative_base(resampled)
    placed = {arm: placements(rows.labels, list(rows.scores[arm])) for arm in arms}

    def delong(arm: str, other: str) -> list[float]:
        return paired_interval(placed[arm], placed[other], rows.labels, rows.users)

    entries = []
    for arm in arms:
        others = opponents(arm, kinds, rows.runs[arm][0])
        entry = {
            "name": arm,
            "kind": str(kinds[arm]),
            "auc": resampled.mean(arm),
            "auc_ci": resampled.interval(arm),
            "auc_by_seed": resampled.measured[arm].tolist(),
            **_point_metrics(rows, arm),
            "rela_impr": None if base is None else metrics.rela_impr(resampled.mean(arm), base),
            "delta_auc_vs": {other: resampled.difference(arm, other) for other in others},
            "delta_auc_users_vs": {other: resampled.difference(arm, other, with_seeds=False) for other in others},
            "delta_auc_delong_vs": {other: delong(arm, other) for other in others},
            **_training_facts(rows.runs[arm]),
        }
        if kinds[arm] is ArmKind.DISTILLED:
            entry["gap_recovered"] = gap_recovered(rows, kinds, resampled, arm)
        entries.append(entry)
    return entries


def resample(
    rows: ScoredRows, arms: Sequence[str], *, rounds: int, seed: int, inside: Flags | None = None
) -> Resampled:
    """The arms' AUCs as measured and under resamples of users and seeds.

    Args:
        rows: the test rows.
        arms: of the rows.
        rounds: resamples.
        seed: of the resamples.
        inside: [N] True for the rows that count; None counts all. The users drawn are those of the whole either way.
    """
    chosen = slice(None) if inside is None else inside
    labels, users = rows.labels[chosen], rows.users[chosen]
    runs = [scores[chosen] for arm in arms for scores in rows.scores[arm]]
    drawn = bootstrap_aucs(labels, users, runs, rounds=rounds, seed=seed, num_users=rows.num_users)
    drawn = drawn.reshape(rounds, len(arms), len(rows.seeds))
    measured = np.array([metrics.auc(labels, run) for run in runs]).reshape(len(arms), len(rows.seeds))
    return Resampled(
        measured=dict(zip(arms, measured, strict=True)),
        drawn={arm: drawn[:, number] for number, arm in enumerate(arms)},
        seed_shares=draw_seeds(len(rows.seeds), rounds=rounds, seed=seed),
    )


def relative_base(resampled: Resampled) -> float | None:
    """AUC of BASE_ARM, or None where it was not trained or may be no better than chance: nothing relates to that."""
    if BASE_ARM not in resampled.measured or not resampled.interval(BASE_ARM)[0] > 0.5:
        return None
    return resampled.mean(BASE_ARM)


def opponents(arm: str, kinds: Mapping[str, ArmKind], run: Mapping[str, Any]) -> list[str]:
    """Whom an arm is compared with: tabular arms; unless it is one, placebos too; and the arm it learns from."""
    wanted = {ArmKind.TABULAR} if kinds[arm] is ArmKind.TABULAR else {ArmKind.TABULAR, ArmKind.PLACEBO}
    return [other for other, kind in kinds.items() if other != arm and (kind in wanted or other == run["learns_from"])]


def gap_recovered(
    rows: ScoredRows, kinds: Mapping[str, ArmKind], resampled: Resampled, arm: str
) -> dict[str, Any] | None:
    """How much of the gain network's lead over the same backbone the vanilla network keeps without reading a vector.

    Returns:
        `base`, `gain`, `lead` as [lo, mean, hi] of gain − base, and `share` as [lo, mean, hi] of
        (arm − base) / (gain − base), None where the lead's interval holds zero: of nothing, no share can be taken.
        None altogether where the backbone's own arm or the gain network was not trained beside it.
    """
    run = rows.runs[arm][0]
    gain = run["learns_from"]
    same = [
        other
        for other, kind in kinds.items()
        if kind is ArmKind.TABULAR and rows.runs[other][0]["backbone"] == run["backbone"]
    ]
    if not same or gain not in kinds:
        return None
    lead = resampled.difference(gain, same[0])
    share = resampled.share_of_gap(arm, same[0], gain) if lead[0] > 0 else None
    return {"base": same[0], "gain": gain, "lead": lead, "share": share}


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

    grouped = [metrics.grouped_auc(rows.labels, scores, rows.users) for scores in rows.scores[arm]]
    return {
        "gauc_impression": float(np.mean([one.by_impression for one in grouped])),
        "gauc_user": float(np.mean([one.by_user for one in grouped])),
        "gauc_users": grouped[0].num_users,
        "gauc_users_left_out": grouped[0].num_left_out,
        "logloss": over_seeds(metrics.logloss),
        "pcoc": over_seeds(metrics.pcoc),
        "ece": over_seeds(metrics.ece),
    }


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
