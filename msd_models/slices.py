"""The comparison on parts of the test rows: where knowledge of the text should pay, and where it should not matter.

Parts are cut by what a model knew of a row beforehand: how often its item was shown in the training window, the item's
category, the length of the user's history, whether there was a vector at all. One part is named before anybody looks,
the cold items; the others are for finding out why, and of twenty intervals one leaves zero aside by chance.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc

from msd_models import metrics
from msd_models.bootstrap import Resampled
from msd_models.comparison import ArmKind, kinds_of, opponents, resample
from msd_models.metrics import Flags
from msd_models.scores import ScoredRows

COLD_BELOW = 10
"""An item with fewer exposures in the training window is cold."""
OPPONENT = "din"
EXPOSURE_EDGES = (0, 1, 5, 20, 100, 500)
"""Lower ends of the exposure buckets: items never shown in the training window, shown 1 to 4 times, and so on."""
HISTORY_EDGES = (0, 1, 3, 6, 11, 20)
DECILES = 10
MAX_CATEGORIES = 10


@dataclass(frozen=True, kw_only=True)
class Part:
    """Some of the test rows."""

    family: str
    """What it was cut by: decile, category, history, item_vector or user_vector."""
    name: str
    inside: Flags
    """[N]"""


def cold_items(rows: ScoredRows, *, rounds: int, seed: int) -> dict[str, Any] | None:
    """The rows of items with fewer than COLD_BELOW training exposures, with paired differences as the whole has them.

    Returns:
        None where no such row is, or only rows of one class.
    """
    inside = _exposures(rows) < COLD_BELOW
    if not _is_rankable(rows, inside):
        return None
    kinds = kinds_of(rows)
    resampled = resample(rows, list(kinds), rounds=rounds, seed=seed, inside=inside)

    def differences(arm: str) -> dict[str, list[float]]:
        return {other: resampled.difference(arm, other) for other in opponents(arm, kinds, rows.runs[arm][0])}

    arms = [
        {
            "name": arm,
            "kind": str(kind),
            "auc": resampled.mean(arm),
            "auc_ci": resampled.interval(arm),
            "delta_auc_vs": differences(arm),
        }
        for arm, kind in kinds.items()
    ]
    return {"exposures_below": COLD_BELOW, **_counts(rows, inside), "arms": arms}


def slices(rows: ScoredRows, *, rounds: int, seed: int) -> list[dict[str, Any]]:
    """Every part with its rows, the AUC of each arm and the paired difference of arms with knowledge to OPPONENT."""
    kinds = kinds_of(rows)
    told = [arm for arm, kind in kinds.items() if kind in (ArmKind.SEMANTIC, ArmKind.DISTILLED)]
    judged = [*told, OPPONENT] if told and OPPONENT in kinds else []
    entries = []
    for part in _parts(rows):
        resampled = None
        if judged and _is_rankable(rows, part.inside):
            resampled = resample(rows, judged, rounds=rounds, seed=seed, inside=part.inside)
        entries.append(
            {
                "family": part.family,
                "name": part.name,
                **_counts(rows, part.inside),
                "auc": _aucs(rows, part.inside, resampled),
                "delta_auc_vs": {arm: {OPPONENT: resampled.difference(arm, OPPONENT)} for arm in told}
                if resampled
                else {},
            }
        )
    return entries


def exposure_buckets(rows: ScoredRows) -> list[dict[str, Any]]:
    """AUC of each arm on the test rows of items shown rarely or often in the training window.

    Returns:
        One entry per bucket that holds rows, coldest first; an AUC is NaN where the bucket holds one class only.
    """
    members = np.searchsorted(EXPOSURE_EDGES, _exposures(rows), side="right") - 1
    buckets = []
    for number in np.unique(members):
        inside = members == number
        buckets.append(
            {"exposures": _ends(EXPOSURE_EDGES, number), **_counts(rows, inside), "auc": _aucs(rows, inside, None)}
        )
    return buckets


def _parts(rows: ScoredRows) -> Iterator[Part]:
    yield from _by_decile(rows)
    yield from _by_category(rows)
    lengths = rows.facts.column("history_length").to_numpy()
    members = np.searchsorted(HISTORY_EDGES, lengths, side="right") - 1
    for number in np.unique(members):
        low, high = _ends(HISTORY_EDGES, number)
        name = f"{low}" if low == high else f"{low}+" if high is None else f"{low}–{high}"
        yield Part(family="history", name=name, inside=members == number)
    for family in ("item_vector", "user_vector"):
        has = rows.facts.column(f"has_{family}").to_numpy(zero_copy_only=False).astype(bool)
        for name, inside in (("has one", has), ("has none", ~has)):
            if inside.any():
                yield Part(family=family, name=name, inside=inside)


def _by_decile(rows: ScoredRows) -> Iterator[Part]:
    """Tenths of the rows by exposure of their item; equal counts share a tenth, so that there may be fewer."""
    from scipy.stats import rankdata

    exposures = _exposures(rows)
    members = ((rankdata(exposures) - 0.5) * DECILES / len(exposures)).astype(np.int64)
    for number in np.unique(members):
        inside = members == number
        low, high = int(exposures[inside].min()), int(exposures[inside].max())
        yield Part(family="decile", name=f"{low}" if low == high else f"{low}–{high}", inside=inside)


def _by_category(rows: ScoredRows) -> Iterator[Part]:
    counted = pc.value_counts(rows.facts.column("category")).to_pylist()
    largest = sorted(counted, key=lambda one: (-one["counts"], one["values"]))[:MAX_CATEGORIES]
    for one in largest if len(counted) > 1 else []:
        inside = pc.equal(rows.facts.column("category"), one["values"]).to_numpy().astype(bool)
        yield Part(family="category", name=one["values"], inside=inside)


def _exposures(rows: ScoredRows) -> npt.NDArray[np.int64]:
    return rows.facts.column("item_exposures").to_numpy()


def _ends(edges: tuple[int, ...], number: int) -> list[int | None]:
    return [edges[number], edges[number + 1] - 1 if number + 1 < len(edges) else None]


def _is_rankable(rows: ScoredRows, inside: Flags) -> bool:
    clicks = int(rows.labels[inside].sum())
    return 0 < clicks < int(inside.sum())


def _counts(rows: ScoredRows, inside: Flags) -> dict[str, int]:
    return {
        "rows": int(inside.sum()),
        "clicks": int(rows.labels[inside].sum()),
        "items": len(rows.item_ids.filter(inside).unique()),
        "users": len(np.unique(rows.users[inside])),
    }


def _aucs(rows: ScoredRows, inside: Flags, resampled: Resampled | None) -> dict[str, float]:
    labels = rows.labels[inside]

    def measured(arm: str) -> float:
        if resampled is not None and arm in resampled.measured:
            return resampled.mean(arm)
        return float(np.mean([metrics.auc(labels, run[inside]) for run in rows.scores[arm]]))

    return {arm: measured(arm) for arm in rows.scores}
