"""Token-level distillation: the Hugging Face Trainer over teacher rows, loss on the completion only.

L = − Σ log P_student(y_t | y_<t, x) over the teacher's tokens (docs/methods.md), per batch the mean over its tokens.
The vocabulary head costs more than six layers of this width, so logits are made for completion positions alone.
"""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from msd_models.distillation_rows import IGNORED, collate
from msd_models.language_model import quiet_transformers, resolve_dtype
from pipeline.config import Student
from pipeline.progress import progress

# B rows of a batch, T tokens, D dimensions, C completion tokens


@dataclass(frozen=True, kw_only=True)
class Training:
    """What training did."""

    loss_first: float
    """Mean token NLL of the first logged steps."""
    loss_last: float
    tokens: int
    """Prompt and completion tokens of all rows, once each."""
    tokens_per_second: float
    """Over all epochs; 0 where everything came from a checkpoint."""


def train(model: Any, rows: Sequence[dict[str, Any]], config: Student, fill: int, checkpoints: Path) -> Training:
    """Trains the model in place; goes on from the last checkpoint where an earlier run was killed.

    Args:
        model: a causal language model in float32, which stays float32; only its arithmetic follows config.dtype.
        rows: of `training_rows`.
        config: epochs, batch size, learning rate, seed.
        fill: token id that pads.
        checkpoints: folder of unfinished work; one checkpoint an epoch.
    """
    from transformers import Trainer
    from transformers.trainer_utils import get_last_checkpoint

    class CompletionTrainer(Trainer):  # type: ignore[misc]
        """The Trainer with logits on completion positions only; its own autocast covers whole forward passes alone."""

        def compute_loss(
            self, model: Any, inputs: dict[str, torch.Tensor], return_outputs: bool = False, **_: Any
        ) -> Any:
            kind = next(model.parameters()).device.type
            with torch.autocast(kind, dtype=torch.bfloat16, enabled=self.args.bf16):
                return completion_loss(model, inputs["input_ids"], inputs["labels"])

    started = time.monotonic()
    steps = math.ceil(len(rows) / config.batch_size) * config.epochs
    with quiet_transformers(), progress("student: distil", steps, "steps") as advance:
        trainer = CompletionTrainer(
            model=model,
            args=_arguments(config, steps, checkpoints),
            train_dataset=list(rows),
            data_collator=partial(collate, fill=fill),
            callbacks=[_progress_callback(advance)],
        )
        _drop_console_callbacks(trainer)
        last = get_last_checkpoint(str(checkpoints)) if checkpoints.is_dir() else None
        resumed_at = int(Path(last).name.rpartition("-")[2]) if last else 0
        trainer.train(resume_from_checkpoint=last)
    seconds = time.monotonic() - started
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    tokens = sum(row["length"] for row in rows)
    done = tokens * config.epochs * (1 - resumed_at / steps)
    return Training(
        loss_first=losses[0], loss_last=losses[-1], tokens=tokens, tokens_per_second=round(done / seconds, 1)
    )


def completion_loss(model: Any, ids_BT: torch.Tensor, labels_BT: torch.Tensor) -> torch.Tensor:
    """Mean NLL of the labelled tokens, each predicted from the position before it.

    Padding stands on the right, where a causal model needs no mask.
    """
    hidden_BTD = model.get_decoder()(input_ids=ids_BT, use_cache=False).last_hidden_state
    wanted_BT = labels_BT[:, 1:] != IGNORED
    logits_CV = model.get_output_embeddings()(hidden_BTD[:, :-1][wanted_BT])
    return torch.nn.functional.cross_entropy(logits_CV.float(), labels_BT[:, 1:][wanted_BT])


def _arguments(config: Student, steps: int, checkpoints: Path) -> Any:
    from transformers import TrainingArguments

    return TrainingArguments(
        output_dir=str(checkpoints),
        per_device_train_batch_size=config.batch_size,
        num_train_epochs=config.epochs,
        learning_rate=config.learning_rate,
        warmup_steps=max(1, steps // 10),
        lr_scheduler_type="linear",
        train_sampling_strategy="group_by_length",
        bf16=resolve_dtype(config.dtype) is torch.bfloat16,
        seed=config.seed,
        use_cpu=not torch.cuda.is_available(),
        save_strategy="epoch",
        save_total_limit=1,
        logging_steps=max(1, steps // 10),
        logging_first_step=True,
        remove_unused_columns=False,
        dataloader_pin_memory=torch.cuda.is_available(),
        disable_tqdm=True,
        report_to="none",
    )


def _progress_callback(advance: Any) -> Any:
    from transformers import TrainerCallback

    class Steps(TrainerCallback):  # type: ignore[misc]
        """Advances the bar a step at a time, over the steps of a checkpoint at once."""

        def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            advance(state.global_step)

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            advance(1)

    return Steps()


def _drop_console_callbacks(trainer: Any) -> None:
    from transformers import PrinterCallback, ProgressCallback

    trainer.remove_callback(PrinterCallback)
    trainer.remove_callback(ProgressCallback)
