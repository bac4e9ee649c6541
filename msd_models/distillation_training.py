"""Token-level distillation: the Hugging Face Trainer over teacher rows, loss on the completion only.

L = − Σ log P_student(y_t | y_<t, x) over the teacher's tokens (docs/methods.md), per optimiser step the mean over its
labelled tokens, however many passes and processes share the step. The vocabulary head costs more than six layers of
this width, so logits are made for completion positions alone. Each epoch's weights are kept until one of them is
chosen.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from msd_models.distillation_batches import MicroBatch, collate, plan_batches, steps_per_epoch
from msd_models.distillation_rows import IGNORED
from msd_models.language_model import quiet_transformers, resolve_dtype
from pipeline.config import Student
from pipeline.progress import Advance

# B rows of a batch, T tokens, K positions that predict a labelled token, V words of the vocabulary


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


def train(
    model: Any, rows: Sequence[Mapping[str, Any]], config: Student, fill: int, folder: Path, advance: Advance
) -> Training:
    """Trains the model in place; goes on from the last checkpoint where an earlier run was killed.

    Args:
        model: a causal language model in float32, which stays float32; only its arithmetic follows config.dtype.
        rows: of `training_rows`.
        config: epochs, batch size, learning rate, packing, processes, seed.
        fill: token id that pads.
        folder: of unfinished work: checkpoints, and `epoch-<n>.safetensors` with the trained weights of each epoch.
        advance: is told every optimiser step.
    """
    from transformers.trainer_utils import get_last_checkpoint

    started = time.monotonic()
    per_epoch = steps_per_epoch(len(rows), config)
    steps = per_epoch * config.epochs
    with quiet_transformers():
        trainer = _completion_trainer(model, rows, config, fill, _arguments(config, steps, folder))
        trainer.add_callback(_each_step(advance, per_epoch, folder))
        last = get_last_checkpoint(str(folder)) if folder.is_dir() else None
        resumed_at = int(Path(last).name.rpartition("-")[2]) if last else 0
        trainer.train(resume_from_checkpoint=last)
    seconds = time.monotonic() - started
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    tokens = sum(row["length"] for row in rows)
    done = tokens * config.epochs * (1 - resumed_at / steps)
    return Training(
        loss_first=losses[0], loss_last=losses[-1], tokens=tokens, tokens_per_second=round(done / seconds, 1)
    )


def summed_loss(model: Any, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """NLL of the labelled tokens of a batch of `collate`, added up; each is predicted from the position before it."""
    positions = {"position_ids": batch["position_ids"]} if "position_ids" in batch else {}
    # The model's own forward, not its parts: under DDP only that one averages gradients over processes.
    logits_BKV = model(input_ids=batch["input_ids"], logits_to_keep=batch["keep"], use_cache=False, **positions).logits
    return torch.nn.functional.cross_entropy(
        logits_BKV.flatten(0, 1).float(), batch["targets"].flatten(), ignore_index=IGNORED, reduction="sum"
    )


def epoch_file(folder: Path, epoch: int) -> Path:
    """Where the trained weights of an epoch, counted from 1, are kept."""
    return folder / f"epoch-{epoch:03d}.safetensors"


def trained_weights(model: Any) -> dict[str, torch.Tensor]:
    """What training changes: every weight, or the adapters' alone."""
    return {name: weight.detach().contiguous() for name, weight in model.named_parameters() if weight.requires_grad}


def load_epoch(model: Any, folder: Path, epoch: int) -> None:
    """Puts the trained weights of an epoch, counted from 1, into the model."""
    from safetensors.torch import load_file

    kept = load_file(epoch_file(folder, epoch))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.requires_grad:
                weight.copy_(kept[name])


def _completion_trainer(
    model: Any, rows: Sequence[Mapping[str, Any]], config: Student, fill: int, arguments: Any
) -> Any:
    from transformers import PrinterCallback, ProgressCallback, Trainer

    def collate_planned(planned: Sequence[MicroBatch]) -> dict[str, torch.Tensor]:
        (batch,) = planned
        tensors = collate([rows[row] for row in batch.rows or (0,)], fill, config.pack)
        if not batch.rows:
            tensors["targets"] = torch.full_like(tensors["targets"], IGNORED)
        return {**tensors, "step_tokens": torch.tensor(batch.step_tokens)}

    class CompletionTrainer(Trainer):  # type: ignore[misc]
        """The Trainer on planned batches; its own autocast covers whole forward passes of known models alone."""

        loss_is_scaled_for_ga = True

        def compute_loss(
            self, model: Any, inputs: dict[str, torch.Tensor], return_outputs: bool = False, **_: Any
        ) -> Any:
            with torch.autocast(inputs["input_ids"].device.type, dtype=torch.bfloat16, enabled=self.args.bf16):
                # DDP averages over processes what is to be added up.
                return summed_loss(model, inputs) * (self.args.world_size / inputs["step_tokens"])

    trainer = CompletionTrainer(
        model=model,
        args=arguments,
        train_dataset=plan_batches(rows, config, config.epochs),
        data_collator=collate_planned,
    )
    trainer.remove_callback(PrinterCallback)
    trainer.remove_callback(ProgressCallback)
    return trainer


def _arguments(config: Student, steps: int, folder: Path) -> Any:
    """The order of batches is the plan's: to the Trainer all epochs are one pass over it."""
    from transformers import TrainingArguments

    arguments = TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=1,
        gradient_accumulation_steps=config.accumulate,
        num_train_epochs=1,
        learning_rate=config.learning_rate,
        warmup_steps=max(1, steps // 10),
        lr_scheduler_type="linear",
        train_sampling_strategy="sequential",
        bf16=resolve_dtype(config.dtype) is torch.bfloat16,
        seed=config.seed,
        use_cpu=not torch.cuda.is_available(),
        ddp_find_unused_parameters=False,
        save_strategy="steps",
        save_steps=config.checkpoint_steps,
        save_total_limit=1,
        logging_steps=max(1, steps // 10),
        logging_first_step=True,
        remove_unused_columns=False,
        dataloader_pin_memory=torch.cuda.is_available(),
        disable_tqdm=True,
        report_to="none",
    )
    if arguments.world_size == 1 and torch.cuda.is_available():
        # More GPUs are used by more processes; the Trainer would cut a packed sequence into pieces for them.
        arguments._n_gpu = 1
    return arguments


def _each_step(advance: Advance, per_epoch: int, folder: Path) -> Any:
    from safetensors.torch import save_file
    from transformers import TrainerCallback

    class Steps(TrainerCallback):  # type: ignore[misc]
        """Advances the bar, over the steps of a checkpoint at once, and keeps the weights each epoch ends with."""

        def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            folder.mkdir(parents=True, exist_ok=True)
            advance(state.global_step)

        def on_step_end(self, args: Any, state: Any, control: Any, model: Any, **_: Any) -> None:
            advance(1)
            epoch, rest = divmod(state.global_step, per_epoch)
            if rest == 0 and state.is_world_process_zero:
                path = epoch_file(folder, epoch)
                aside = path.with_suffix(".writing")
                save_file(trained_weights(model), aside)
                aside.replace(path)

    return Steps()
