"""Two canary models of the same records, side by side: what a new generation's vectors lose or gain in AUC.

Judged on the test rows whose item and user both generations have a vector of: what a generation lacks is coverage, and
another check's matter. The interval draws users and seeds, the same ones for both (`bootstrap`).
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from msd_models.bootstrap import Resampled, bootstrap_aucs, draw_seeds
from msd_models.canary_model import KNOWN_FILE
from msd_models.metrics import Flags, Floats, auc
from msd_models.vector_tables import user_codes
from pipeline.errors import StageError
from pipeline.storage import Dataset


@dataclass(frozen=True, kw_only=True)
class Loss:
    """How much worse the new generation's vectors serve the same rows; below 0 where they serve them better."""

    rows: int
    """Test rows."""
    compared_rows: int
    """Those whose item and user both generations have a vector of."""
    new_auc: float | None
    """Mean over seeds; None where the compared rows hold one class only, or users too few to draw."""
    active_auc: float | None
    interval: tuple[float, float, float] | None
    """[low, measured, high] of active − new."""


def compare_canaries(new: Dataset, active: Dataset, *, rounds: int, seed: int) -> Loss:
    """The loss of `new` against `active`.

    Args:
        new: canary_model of the new generation's vectors.
        active: canary_model of the same records on the active generation's.
        rounds: resamples.
        seed: of the resamples.

    Raises:
        StageError: the two scored other test rows.
    """
    known, known_active = (pq.read_table(each.folder / KNOWN_FILE, partitioning=None) for each in (new, active))
    for column in ("event_id", "is_click", "user_id"):
        if not known.column(column).equals(known_active.column(column)):
            raise StageError(
                f"canary_model/{new.fingerprint} and canary_model/{active.fingerprint} scored other test rows; delete"
                " both folders and run the same command again"
            )
    is_compared = _both(known) & _both(known_active)
    labels = known.column("is_click").to_numpy()[is_compared]
    counts = {"rows": len(known), "compared_rows": len(labels)}
    if len(set(labels.tolist())) < 2:
        return Loss(**counts, new_auc=None, active_auc=None, interval=None)
    scores = {name: _scores(each, known)[:, is_compared] for name, each in (("new", new), ("active", active))}
    users = user_codes(known.column("user_id").filter(pa.array(is_compared)))
    drawn = bootstrap_aucs(labels, users, [run for runs in scores.values() for run in runs], rounds=rounds, seed=seed)
    num_seeds = len(scores["new"])
    by_name = dict(zip(scores, np.split(drawn, 2, axis=1), strict=True))
    resampled = Resampled(
        measured={name: np.array([auc(labels, run) for run in runs]) for name, runs in scores.items()},
        drawn=by_name,
        seed_shares=draw_seeds(num_seeds, rounds=rounds, seed=seed),
    )
    low, measured, high = resampled.difference("active", "new")
    if not np.isfinite([low, measured, high]).all():
        return Loss(**counts, new_auc=None, active_auc=None, interval=None)
    return Loss(
        **counts,
        new_auc=resampled.mean("new"),
        active_auc=resampled.mean("active"),
        interval=(low, measured, high),
    )


def _both(known: pa.Table) -> Flags:
    flags: Flags = pc.and_(known.column("has_item_vector"), known.column("has_user_vector")).to_numpy()
    return flags


def _scores(canary: Dataset, known: pa.Table) -> Floats:
    """[S, N]: scores of each seed, in the order of KNOWN_FILE."""
    details = canary.details
    runs = []
    for seed in details["seeds"]:
        path = canary.folder / "predictions" / f"{details['arms'][0]}-{seed}.parquet"
        table = pq.read_table(
            path, columns=["event_id", "score"], filters=[("split", "==", "test")], partitioning=None
        ).sort_by("event_id")
        if not table.column("event_id").equals(known.column("event_id")):
            raise StageError(f"canary_model/{canary.fingerprint}: {path.name} is of other test rows; delete its folder")
        runs.append(table.column("score").to_numpy())
    return np.stack(runs)
