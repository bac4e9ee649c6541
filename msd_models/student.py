"""The student: a small language model that writes the teacher's phrases, and how well it does on rows held out.

Folder: `model/` (weights in bfloat16, tokenizer) and `holdout.parquet` (teacher's and student's phrases side by side).
The F1 of the same layers before training stands beside the trained one: what it measures must come from the training.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch

from msd_models.distillation_rows import Row, Split, split_rows, training_rows
from msd_models.distillation_training import Training, train
from msd_models.language_model import cpu_threads, load_causal, quiet_transformers, resolve_dtype
from msd_models.phrases import PhraseScores, phrase_f1
from msd_models.sentence_encoder import SentenceEncoder
from msd_models.student_layers import initial_student
from msd_models.student_prompt import TEMPLATE, PromptIds, parse_completion, prompt_ids
from msd_models.token_batches import token_batches
from pipeline.config import Student
from pipeline.errors import StageError
from pipeline.progress import progress
from pipeline.storage import Dataset, Outcome, write_shard

Phrases = tuple[list[str], list[str]]
"""(explicit, implicit)"""
MAX_PHRASE_TOKENS = 64
GENERATION_TOKENS = 4096
"""Prompt tokens per batch of generation."""


def distill(config: Student, folder: Path, teacher_outputs: Dataset) -> Outcome:
    """Trains the student and measures its phrase F1; goes on after a kill from the last epoch.

    Args:
        config: base model, layers, training and hold-out.
        folder: gets `model/` and `holdout.parquet`.
        teacher_outputs: rows with status ok are learned from.

    Returns:
        rows_ok are the rows trained on or held out, rows_skipped those the teacher rejected.

    Raises:
        StageError: no row to train on.
        ConfigError: a base model that does not exist, or has too few layers.
    """
    split = split_rows(teacher_outputs.table().to_pylist(), config)
    if not split.train:
        raise StageError(
            f"student: none of {teacher_outputs.num_rows():,} teacher rows can be trained on; wanted at least 2 with"
            " status ok; look at them: msd show teacher_outputs"
        )
    with cpu_threads(config.threads):
        details = _train_and_measure(config, folder, split)
    return Outcome(
        rows_in=teacher_outputs.num_rows(),
        rows_ok=len(split.train) + len(split.holdout),
        rows_skipped=len(split.skipped),
        details=details,
    )


def _train_and_measure(config: Student, folder: Path, split: Split) -> dict[str, Any]:
    model, tokenizer = initial_student(config, _training_texts(split.train))
    prompt = prompt_ids(tokenizer)
    measured = sorted(split.holdout, key=lambda row: row["prompt_id"])[: config.max_holdout_rows]
    untrained = write_phrases(model, prompt, measured, config)
    rows = training_rows(split.train, prompt, config.max_length)
    training = train(model, rows, config, tokenizer.pad_token_id, folder / "_checkpoints")
    trained = _save(model, tokenizer, folder / "model", resolve_dtype(config.dtype))
    said = write_phrases(trained, prompt, measured, config)
    scores, scores_untrained = _scores(measured, [said, untrained], config)
    _write_holdout(folder / "holdout.parquet", measured, said, scores)
    shutil.rmtree(folder / "_checkpoints", ignore_errors=True)
    return _details(config, training, len(split.train), scores, scores_untrained)


@torch.inference_mode()
def write_phrases(model: Any, prompt: PromptIds, rows: Sequence[Row], config: Student) -> list[Phrases]:
    """What the model writes for each row, greedily.

    Args:
        model: a causal language model.
        prompt: the instruction and cue under its tokenizer.
        rows: of teacher_outputs; their text and level are read.
        config: max_length bounds the prompt.
    """
    limit = config.max_length - MAX_PHRASE_TOKENS
    ids = [prompt.of(row["text"], max_tokens=max(limit, 16), keep_end=row["level"] == "user") for row in rows]
    written: list[Phrases] = [([], []) for _ in rows]
    with progress("student: write phrases", len(rows)) as advance:
        for batch in token_batches([len(row) for row in ids], GENERATION_TOKENS):
            for row, text in zip(batch, _generate(model, prompt.tokenizer, [ids[row] for row in batch]), strict=True):
                written[row] = parse_completion(text)
            advance(len(batch))
    return written


def _generate(model: Any, tokenizer: Any, ids: list[list[int]]) -> list[str]:
    """Continuations of prompts padded on the left, as generation needs them."""
    width = max(len(row) for row in ids)
    ids_BT = torch.full((len(ids), width), tokenizer.pad_token_id, dtype=torch.long)
    mask_BT = torch.zeros_like(ids_BT)
    for number, row in enumerate(ids):
        ids_BT[number, width - len(row) :] = torch.tensor(row)
        mask_BT[number, width - len(row) :] = 1
    made_BT = model.generate(
        input_ids=ids_BT.to(model.device),
        attention_mask=mask_BT.to(model.device),
        max_new_tokens=MAX_PHRASE_TOKENS,
        do_sample=False,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return list(tokenizer.batch_decode(made_BT[:, width:], skip_special_tokens=True))


def _training_texts(rows: Sequence[Row]) -> list[str]:
    """Rows as the student sees them, the words around the text included."""
    return [
        TEMPLATE.format(
            text=row["text"], implicit="; ".join(row["implicit_phrases"]), explicit="; ".join(row["explicit_phrases"])
        )
        for row in rows
    ]


def _save(model: Any, tokenizer: Any, folder: Path, dtype: torch.dtype) -> Any:
    """Writes the model in bfloat16 and reads it back: what is measured is what others load."""
    shutil.rmtree(folder, ignore_errors=True)
    with quiet_transformers():
        model.to(device="cpu", dtype=torch.bfloat16).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    return load_causal(folder, dtype)


def _scores(rows: Sequence[Row], said: Sequence[Sequence[Phrases]], config: Student) -> list[PhraseScores]:
    encoder = SentenceEncoder(config.phrase_encoder)
    gold = [[*row["explicit_phrases"], *row["implicit_phrases"]] for row in rows]
    return [
        phrase_f1([[*explicit, *implicit] for explicit, implicit in one], gold, encoder.encode, config.phrase_threshold)
        for one in said
    ]


def _write_holdout(path: Path, rows: Sequence[Row], said: Sequence[Phrases], scores: PhraseScores) -> None:
    copied = ("prompt_id", "level", "entity_id", "stratum", "text")
    phrases = pa.list_(pa.string())
    columns = {name: pa.array([row[name] for row in rows], pa.string()) for name in copied}
    columns["teacher_explicit"] = pa.array([row["explicit_phrases"] for row in rows], phrases)
    columns["teacher_implicit"] = pa.array([row["implicit_phrases"] for row in rows], phrases)
    columns["student_explicit"] = pa.array([explicit for explicit, _ in said], phrases)
    columns["student_implicit"] = pa.array([implicit for _, implicit in said], phrases)
    columns["f1"] = pa.array(scores.rows, pa.float64())
    write_shard(path, pa.table(columns))


def _details(
    config: Student, training: Training, train_rows: int, scores: PhraseScores, untrained: PhraseScores
) -> dict[str, Any]:
    return {
        "f1_micro": round(scores.micro, 4),
        "f1_macro": round(scores.macro, 4),
        "f1_untrained_micro": round(untrained.micro, 4),
        "tau": config.phrase_threshold,
        "gold_rows": len(scores.rows),
        "train_rows": train_rows,
        "train_tokens": training.tokens,
        "train_loss_first": training.loss_first,
        "train_loss_last": training.loss_last,
        "tokens_per_second": training.tokens_per_second,
    }
