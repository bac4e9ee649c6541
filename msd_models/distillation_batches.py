"""Which rows each step trains on, and the tensors of a forward pass: rows packed into one sequence, or padded.

The whole order of a training is worked out beforehand from the seed and the lengths: a training goes on in the middle
of an epoch by counting, and processes and accumulated passes share a step's rows without changing which rows they are.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from msd_models.distillation_rows import IGNORED
from msd_models.token_batches import pad
from pipeline.config import Student
from pipeline.errors import ConfigError

# B rows of a batch, T tokens, K positions whose next token is predicted

SORTED_STEPS = 50
"""Steps whose rows are sorted by length together: little padding, and still another mixture every epoch."""


@dataclass(frozen=True, kw_only=True)
class MicroBatch:
    """Row numbers of one forward pass of one process; none where a step has fewer rows than passes."""

    rows: tuple[int, ...]
    step_tokens: int
    """Labelled tokens of the whole optimiser step, over all its passes and processes."""


def plan_batches(rows: Sequence[Mapping[str, Any]], config: Student, epochs: int) -> list[MicroBatch]:
    """All forward passes of a training in order: `passes_per_step` follow each other for one optimiser step.

    Args:
        rows: of `training_rows`.
        config: batch_size, accumulate, processes, seed.
        epochs: how often every row is seen.

    Raises:
        ConfigError: batch_size cannot be shared out evenly.
    """
    passes = passes_per_step(config)
    labelled = [sum(label != IGNORED for label in row["labels"]) for row in rows]
    lengths = np.array([row["length"] for row in rows])
    planned = []
    for epoch in range(epochs):
        for step in _epoch_steps(lengths, config.batch_size, (config.seed, epoch)):
            tokens = sum(labelled[row] for row in step)
            planned += [MicroBatch(rows=tuple(step[place::passes]), step_tokens=tokens) for place in range(passes)]
    return planned


def passes_per_step(config: Student) -> int:
    """Forward passes behind one optimiser step, over all processes."""
    passes = config.accumulate * config.processes
    if passes < 1 or config.batch_size < 1 or config.batch_size % passes:
        raise ConfigError(
            f"[student] batch_size is {config.batch_size}, which accumulate = {config.accumulate} and processes ="
            f" {config.processes} cannot share out; wanted a multiple of their product"
        )
    return passes


def steps_per_epoch(num_rows: int, config: Student) -> int:
    """Optimiser steps in which every row is seen once."""
    return math.ceil(num_rows / config.batch_size)


def collate(rows: Sequence[Mapping[str, Any]], fill: int, pack: bool) -> dict[str, torch.Tensor]:
    """The tensors of one forward pass.

    Args:
        rows: of `training_rows`; at least one.
        fill: token id that pads; a causal model needs no mask for padding on the right.
        pack: one sequence without padding, in which positions start anew at each row: without an attention mask, that
            is what tells the library that rows do not see each other.

    Returns:
        input_ids [B, T], position_ids [1, T] where packed, keep [K]: positions that predict a labelled token in some
        row, and targets [B, K]: the tokens they predict, IGNORED where the row has no label.
    """
    if pack:
        ids = [token for row in rows for token in row["input_ids"]]
        labels = [label for row in rows for label in row["labels"]]
        starts = [position for row in rows for position in range(row["length"])]
        batch = {"input_ids": torch.tensor([ids]), "position_ids": torch.tensor([starts])}
        labels_BT = torch.tensor([labels])
    else:
        batch = {"input_ids": pad([row["input_ids"] for row in rows], fill)[0]}
        labels_BT = pad([row["labels"] for row in rows], IGNORED)[0]
    keep_K = (labels_BT[:, 1:] != IGNORED).any(dim=0).nonzero().flatten()
    return {**batch, "keep": keep_K, "targets": labels_BT[:, keep_K + 1]}


def _epoch_steps(lengths_N: np.ndarray, batch_size: int, seed: tuple[int, int]) -> list[list[int]]:
    """Row numbers of each step: rows shuffled, sorted by length within SORTED_STEPS, the steps shuffled again."""
    random = np.random.default_rng(seed)
    order = random.permutation(len(lengths_N))
    chunk = SORTED_STEPS * batch_size
    steps = []
    for start in range(0, len(order), chunk):
        part = order[start : start + chunk]
        part = part[np.argsort(-lengths_N[part], kind="stable")]
        steps += [part[first : first + batch_size].tolist() for first in range(0, len(part), batch_size)]
    return [steps[place] for place in random.permutation(len(steps))]
