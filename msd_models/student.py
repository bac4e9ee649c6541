"""The student: a small language model that writes the teacher's phrases, and how well it does on rows held out.

Folder: `model/` (a plain Hugging Face folder, see student_export), `holdout.parquet` (teacher's and student's phrases
side by side) and `strata.json` (F1 by level and stratum, which a second round of prompts is drawn by). The F1 of the
same layers before training stands beside the trained one, and of two ways to answer without a language model: what it
measures must come from the training.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from msd_models.augmentation import augment
from msd_models.checkpoint_choice import Judge, check_choice, choose_epoch, exportable
from msd_models.distillation_job import run_training
from msd_models.distillation_rows import Row, Split, drawn_rows, split_rows, training_rows
from msd_models.downstream_gain import Downstream, read_downstream
from msd_models.gold import gold_for
from msd_models.language_model import cpu_threads, resolve_dtype
from msd_models.phrase_threshold import choose_threshold
from msd_models.phrase_writing import write_phrases
from msd_models.process_group import Launch
from msd_models.sentence_encoder import SentenceEncoder
from msd_models.student_export import export_model, write_card
from msd_models.student_gold import GoldPair, against_gold, find_gold
from msd_models.student_layers import initial_student
from msd_models.student_prompt import TEMPLATE, prompt_ids
from msd_models.student_quality import measure_student, threshold_facts, write_quality
from pipeline.config import Student
from pipeline.errors import StageError
from pipeline.source_tables import Source
from pipeline.storage import Dataset, Outcome

CHECKPOINTS = "_checkpoints"


def distill(
    config: Student,
    folder: Path,
    teacher_outputs: Dataset,
    items: Dataset,
    interactions: Dataset,
    histories: Dataset,
    item_stats: Dataset,
    source: Source | None = None,
    launch: Launch | None = None,
) -> Outcome:
    """Trains the student, keeps its best epoch and measures its phrase F1; goes on after a kill.

    Args:
        config: base model, layers, training, choice and hold-out.
        folder: gets `model/`, `holdout.parquet` and `strata.json`.
        teacher_outputs: rows with status ok are learned from.
        items: texts of the downstream labels' items.
        interactions: labels of the downstream gain, where epochs are judged by it.
        histories: what users did before those labels.
        item_stats: the tabular facts of the same.
        source: whose name says which of the shipped gold files fits.
        launch: starts the processes of a training; torchrun on this machine where None.

    Returns:
        rows_ok are the rows trained on, chosen by or held out; rows_skipped those the teacher rejected, that repeat a
        text of another part, or that train_share leaves out.

    Raises:
        StageError: no row to train on, or nothing to choose an epoch by.
        ConfigError: a base model that does not exist, or settings out of range.
    """
    check_choice(config)
    split = split_rows(teacher_outputs.table().to_pylist(), config)
    if not split.train:
        raise StageError(
            f"student: none of {teacher_outputs.num_rows():,} teacher rows can be trained on; wanted at least 2 with"
            " status ok; look at them: msd show teacher_outputs"
        )
    wants_gain = "auc" in (config.choose_by, *config.curve)
    downstream = read_downstream(items, interactions, histories, item_stats, config.seed) if wants_gain else None
    gold = find_gold(gold_for(config, source.name if source else None), items, split)
    with cpu_threads(config.threads):
        details = _train_and_measure(config, folder, split, downstream, gold, launch)
    write_card(folder / "model", config, teacher_outputs, details)
    shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)
    return Outcome(
        rows_in=teacher_outputs.num_rows(),
        rows_ok=len(split.train) + len(split.choosing) + len(split.holdout),
        rows_skipped=len(split.skipped),
        details=details,
    )


def _train_and_measure(
    config: Student,
    folder: Path,
    split: Split,
    downstream: Downstream | None,
    gold: Sequence[GoldPair],
    launch: Launch | None,
) -> dict[str, Any]:
    encode = SentenceEncoder(config.phrase_encoder).encode
    threshold = choose_threshold(config, encode)
    rows = augment(split.train, config)
    model, tokenizer = initial_student(config, _training_texts(rows))
    prompt = prompt_ids(tokenizer)
    measured = drawn_rows(split.holdout, config.seed, config.max_holdout_rows)
    untrained = write_phrases(model, prompt, measured, config.max_length)
    work = folder / CHECKPOINTS
    tokenised = training_rows(rows, prompt, config.max_length)
    adapted, training = run_training(model, tokenised, config, tokenizer.pad_token_id, work, launch)
    judge = Judge(
        config=config,
        prompt=prompt,
        choosing=split.choosing,
        encode=encode,
        threshold=threshold.value,
        downstream=downstream,
    )
    choice = choose_epoch(adapted, work, judge)
    dtype = resolve_dtype(config.dtype)
    trained = export_model(exportable(adapted, dtype), tokenizer, folder / "model", dtype)
    quality = measure_student(trained, prompt, split, untrained, judge)
    write_quality(folder, quality)
    return {
        **quality.details(),
        "gold": against_gold(trained, prompt, gold, split, judge),
        **threshold_facts(threshold),
        "train_rows": len(split.train),
        "choosing_rows": len(split.choosing),
        "augmented_rows": len(rows) - len(split.train),
        "train_tokens": training.tokens,
        "train_loss_first": training.loss_first,
        "train_loss_last": training.loss_last,
        "tokens_per_second": training.tokens_per_second,
        "choose_by": config.choose_by,
        "chosen_epoch": choice.epoch,
        "curve": choice.curve,
    }


def _training_texts(rows: Sequence[Row]) -> list[str]:
    """Rows as the student sees them, the words around the text included."""
    return [
        TEMPLATE.format(
            text=row["text"], implicit="; ".join(row["implicit_phrases"]), explicit="; ".join(row["explicit_phrases"])
        )
        for row in rows
    ]
