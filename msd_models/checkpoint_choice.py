"""Which epoch of a student is kept: judged by its loss, by its phrases, or by what its vectors add downstream.

The three need not agree (SuKD): the loss still falls while phrases no longer change, and neither knows what the counts
of a click log know already. All are measured on rows and labels that neither training nor the final F1 reads.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from msd_models.distillation_batches import collate
from msd_models.distillation_rows import IGNORED, Row, drawn_rows, training_rows
from msd_models.distillation_training import load_epoch, summed_loss
from msd_models.downstream_gain import Downstream
from msd_models.encoders import PromptStates
from msd_models.language_model import resolve_dtype
from msd_models.phrase_scores import measure
from msd_models.phrase_writing import scored_rows, taught_phrases, write_phrases
from msd_models.phrases import Encode
from msd_models.student_layers import without_adapters
from msd_models.student_prompt import PromptIds
from msd_models.token_batches import token_batches
from pipeline.config import Student, Vectors
from pipeline.errors import ConfigError, StageError
from pipeline.progress import progress

MEASURES = ("nll", "f1", "auc")
CHOICES = (*MEASURES, "last")
NLL_TOKENS = 4096
"""Padded tokens per forward pass."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The kept epoch, and how all were judged."""

    epoch: int
    """Counted from 1."""
    curve: list[dict[str, float]]
    """For each epoch its number and what was measured; `auc` is the gain over the tabular model."""


@dataclass(frozen=True, kw_only=True)
class Judge:
    """What epochs are judged on."""

    config: Student
    prompt: PromptIds
    choosing: Sequence[Row]
    encode: Encode
    threshold: float
    downstream: Downstream | None
    """None where the log has nothing to rank, or the downstream gain is not asked for."""

    def measures(self) -> list[str]:
        """What is measured of every epoch: choose_by and config.curve, as far as there is something to measure on."""
        wanted = {self.config.choose_by, *self.config.curve}
        possible = {"nll": bool(self.choosing), "f1": bool(self.choosing), "auc": self.downstream is not None}
        return [name for name in MEASURES if name in wanted and possible[name]]

    def judge(self, model: Any) -> dict[str, float]:
        """The measures of a model."""
        methods = {"nll": self._nll, "f1": self._f1, "auc": self._auc}
        return {name: round(methods[name](model), 6) for name in self.measures()}

    def _nll(self, model: Any) -> float:
        rows = training_rows(self.choosing, self.prompt, self.config.max_length)
        return mean_nll(model, rows, self.prompt.tokenizer.pad_token_id)

    def _f1(self, model: Any) -> float:
        rows = drawn_rows(self.choosing, self.config.seed, self.config.max_holdout_rows)
        said = write_phrases(model, self.prompt, rows, self.config.max_length)
        return measure(scored_rows(rows, said, taught_phrases(rows)), self.encode, self.threshold, rounds=1).micro

    def _auc(self, model: Any) -> float:
        assert self.downstream is not None
        states = PromptStates(model.get_decoder(), self.prompt, Vectors())
        return self.downstream.gain(states.encode(self.downstream.texts, keep_end=False)).value


def check_choice(config: Student) -> None:
    """Raises a ConfigError for a way of choosing, or a curve, that there is not."""
    if config.choose_by not in CHOICES:
        raise ConfigError(f"[student] choose_by '{config.choose_by}' is unknown; choose {', '.join(CHOICES)}")
    unknown = [name for name in config.curve if name not in MEASURES]
    if unknown:
        raise ConfigError(f"[student] curve '{unknown[0]}' is unknown; choose {', '.join(MEASURES)}")


def choose_epoch(model: Any, folder: Path, judge: Judge) -> Choice:
    """Judges the weights of every epoch and leaves those of the chosen one in the model; ties go to the earlier epoch.

    Args:
        model: as it was trained, adapters included.
        folder: with the weights of every epoch.
        judge: what to measure, and by what to choose.

    Raises:
        StageError: nothing to choose by.
    """
    config = judge.config
    if config.choose_by != "last" and config.choose_by not in judge.measures():
        lacking = "clicks and impressions in train and in valid" if config.choose_by == "auc" else "rows for choosing"
        raise StageError(
            f"student: choose_by = {config.choose_by} wants {lacking}, and there are none; use"
            " --set student.choose_by=last, or more teacher rows and a choosing_share above 0"
        )
    curve = []
    with progress("student: judge epochs", config.epochs, "epochs") as advance:
        for epoch in range(1, config.epochs + 1):
            curve.append({"epoch": epoch, **_judge_epoch(model, folder, epoch, judge)})
            advance(1)
    kept = _best(curve, config.choose_by)
    load_epoch(model, folder, kept)
    return Choice(epoch=kept, curve=curve)


@torch.inference_mode()
def mean_nll(model: Any, rows: Sequence[Mapping[str, Any]], fill: int) -> float:
    """Mean NLL of the labelled tokens of rows made by `training_rows`."""
    total, count = 0.0, 0
    for numbers in token_batches([row["length"] for row in rows], NLL_TOKENS):
        batch = collate([rows[number] for number in numbers], fill, pack=False)
        count += int((batch["targets"] != IGNORED).sum())
        total += summed_loss(model, {name: tensor.to(model.device) for name, tensor in batch.items()}).item()
    return total / max(count, 1)


def exportable(model: Any, dtype: torch.dtype) -> Any:
    """A copy of the trained model with its adapters merged, in the precision it will be used in."""
    return without_adapters(copy.deepcopy(model)).to(dtype).eval()


def _judge_epoch(model: Any, folder: Path, epoch: int, judge: Judge) -> dict[str, float]:
    if not judge.measures():
        return {}
    load_epoch(model, folder, epoch)
    return judge.judge(exportable(model, resolve_dtype(judge.config.dtype)))


def _best(curve: Sequence[Mapping[str, float]], choose_by: str) -> int:
    if choose_by == "last":
        return int(curve[-1]["epoch"])
    sign = -1 if choose_by == "nll" else 1
    return int(max(curve, key=lambda entry: (sign * entry[choose_by], -entry["epoch"]))["epoch"])
