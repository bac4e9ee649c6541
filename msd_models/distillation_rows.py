"""Teacher rows as training rows: which are trained on, which are held out, and their token ids and labels.

A row is held out by a hash of its entity's id, so that the choice depends neither on order nor on the other rows. A
training row whose text stands in the hold-out as well is skipped: the same words under another id would leak.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from msd_models.student_prompt import PromptIds
from msd_models.token_batches import pad
from pipeline.config import Student

IGNORED = -100
"""Label of a token that carries no loss."""
Row = Mapping[str, Any]
"""A row of teacher_outputs."""


@dataclass(frozen=True, kw_only=True)
class Split:
    """Teacher rows by what they are used for; together they are all rows."""

    train: list[Row]
    holdout: list[Row]
    skipped: list[Row]
    """Rejected by the teacher, or the same text as a held-out row."""


def split_rows(rows: Sequence[Row], config: Student) -> Split:
    """Parts rows into train, hold-out and skipped."""
    usable = [row for row in rows if row["status"] == "ok"]
    draws = {row["entity_id"]: _draw(row["entity_id"], config.seed) for row in usable}
    held = {entity for entity, draw in draws.items() if draw < config.holdout_share}
    if not held and len(draws) > 1 and config.holdout_share > 0:
        held = {min(draws, key=lambda entity: (draws[entity], entity))}
    holdout = [row for row in usable if row["entity_id"] in held]
    held_texts = {row["text"] for row in holdout}
    train = [row for row in usable if row["entity_id"] not in held and row["text"] not in held_texts]
    used = {row["prompt_id"] for row in [*train, *holdout]}
    return Split(train=train, holdout=holdout, skipped=[row for row in rows if row["prompt_id"] not in used])


def training_rows(rows: Sequence[Row], prompt: PromptIds, max_length: int) -> list[dict[str, Any]]:
    """input_ids, labels (IGNORED on the prompt) and length of each row, in at most max_length tokens.

    The completion is kept whole while it fits in half of max_length, and the prompt's text gives way.
    """
    made = []
    for row in rows:
        completion = prompt.completion(row["explicit_phrases"], row["implicit_phrases"])
        completion = completion[: max(max_length // 2, 1)]
        keep_end = row["level"] == "user"
        before = prompt.of(row["text"], max_tokens=max_length - len(completion), keep_end=keep_end)
        ids = before + completion
        made.append({"input_ids": ids, "labels": [IGNORED] * len(before) + completion, "length": len(ids)})
    return made


def collate(rows: Sequence[Mapping[str, Any]], fill: int) -> dict[str, torch.Tensor]:
    """A batch padded on the right: input_ids and labels, both [B, T]."""
    ids_BT, _ = pad([row["input_ids"] for row in rows], fill)
    labels_BT, _ = pad([row["labels"] for row in rows], IGNORED)
    return {"input_ids": ids_BT, "labels": labels_BT}


def _draw(entity_id: str, seed: int) -> float:
    """A number in [0, 1) from the id alone."""
    hashed = hashlib.sha256(f"holdout\0{seed}\0{entity_id}".encode()).digest()
    return int.from_bytes(hashed[:8], "big") / 2**64
