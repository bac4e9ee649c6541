"""The test scores of every arm and seed, side by side on the same rows: what the report judges.

Reads `predictions/<arm>-<seed>.parquet`, `runs/<arm>-<seed>.json` and `rows.parquet` of the ctr_model dataset. All runs
must have scored the same test events, or a paired comparison would compare different questions.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from msd_models.metrics import Codes, Floats, Labels
from pipeline.errors import StageError
from pipeline.storage import Dataset

COMPARED = ("event_id", "is_click")
IDENTITY = ("event_id", "user_id", "item_id", "is_click")
FACTS = ("event_id", "category", "item_exposures", "history_length", "has_item_vector", "has_user_vector")
NEXT_STEP = "delete the folder of that ctr_model and run: msd run ctr_model"


@dataclass(frozen=True, kw_only=True)
class ScoredRows:
    """N test impressions, in event order, with S scores (one per seed) of each arm."""

    event_ids: npt.NDArray[np.int64]
    labels: Labels
    users: Codes
    """[N]: codes 0..U-1."""
    item_ids: pa.Array
    seeds: tuple[int, ...]
    scores: Mapping[str, Floats]
    """Arm → [S, N], in the order of `seeds`."""
    runs: Mapping[str, list[dict[str, Any]]]
    """Arm → what training wrote of each seed."""
    facts: pa.Table
    """What a model knew of each row: the columns FACTS, in event order."""

    @property
    def num_users(self) -> int:
        """Different users among the rows."""
        return int(self.users.max()) + 1


def read_scores(ctr_model: Dataset) -> ScoredRows:
    """The test rows of every run.

    Raises:
        StageError: a run's file is missing, runs scored different events, a score is no probability, or the test
            rows hold one class only, so that nothing can be ranked.
    """
    details = ctr_model.details
    arms, seeds = tuple(details["arms"]), tuple(details["seeds"])
    first = _read_predictions(ctr_model.folder, f"{arms[0]}-{seeds[0]}", IDENTITY)
    labels = first.column("is_click").to_numpy()
    _check_classes(labels)
    users = pc.dictionary_encode(first.column("user_id")).combine_chunks().indices.to_numpy()
    return ScoredRows(
        event_ids=first.column("event_id").to_numpy(),
        labels=labels,
        users=users.astype(np.int64),
        item_ids=first.column("item_id").combine_chunks(),
        seeds=seeds,
        scores={
            arm: np.stack([_scores_of(ctr_model.folder, f"{arm}-{seed}", first) for seed in seeds]) for arm in arms
        },
        runs={arm: [_read_run(ctr_model.folder, f"{arm}-{seed}") for seed in seeds] for arm in arms},
        facts=_read_facts(ctr_model.folder, first.column("event_id")),
    )


def _scores_of(folder: Path, run: str, first: pa.Table) -> Floats:
    """One run's scores, checked to be of the rows that the first run scored."""
    table = _read_predictions(folder, run, COMPARED)
    if not all(table.column(name).equals(first.column(name)) for name in COMPARED):
        raise StageError(
            f"report: {run} scored other test events or labels than the first run, so that they cannot be compared;"
            f" {NEXT_STEP}"
        )
    scores: Floats = table.column("score").to_numpy()
    num_bad = int((~((scores >= 0) & (scores <= 1))).sum())
    if num_bad:
        raise StageError(
            f"report: {num_bad:,} of {len(scores):,} test scores of {run} are no probability between 0 and 1: its"
            f" training diverged; lower it: msd run report --set ctr_model.learning_rate=…"
        )
    return scores


def _read_predictions(folder: Path, run: str, columns: tuple[str, ...]) -> pa.Table:
    path = folder / "predictions" / f"{run}.parquet"
    if not path.is_file():
        raise StageError(f"report: ctr_model lacks predictions/{run}.parquet; {NEXT_STEP}")
    table = pq.read_table(path, columns=[*columns, "score"], filters=[("split", "==", "test")], partitioning=None)
    return table.sort_by("event_id").combine_chunks()


def _read_run(folder: Path, run: str) -> dict[str, Any]:
    path = folder / "runs" / f"{run}.json"
    if not path.is_file():
        raise StageError(f"report: ctr_model lacks runs/{run}.json; {NEXT_STEP}")
    facts: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return facts


def _read_facts(folder: Path, event_ids: pa.ChunkedArray) -> pa.Table:
    path = folder / "rows.parquet"
    if not path.is_file():
        raise StageError(f"report: ctr_model lacks rows.parquet; {NEXT_STEP}")
    facts = pq.read_table(path, columns=list(FACTS), filters=[("split", "==", "test")], partitioning=None)
    facts = facts.sort_by("event_id").combine_chunks()
    if not facts.column("event_id").equals(event_ids):
        raise StageError(f"report: rows.parquet of ctr_model tells of other test events than were scored; {NEXT_STEP}")
    return facts


def _check_classes(labels: Labels) -> None:
    clicks = int(labels.sum())
    if clicks in (0, len(labels)):
        raise StageError(
            f"report: the test split has {clicks:,} clicks in {len(labels):,} rows, and a ranking needs both clicks and"
            f" impressions without one; widen it: [labels] split in the source"
        )
