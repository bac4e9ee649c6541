"""What a student writes: its phrases for rows of text, greedily, and how they compare with the teacher's."""

from collections.abc import Sequence
from typing import Any

import torch

from msd_models.distillation_rows import Row
from msd_models.phrase_scores import Phrases, ScoredRow
from msd_models.student_prompt import PromptIds, parse_completion
from msd_models.token_batches import token_batches
from pipeline.progress import progress

MAX_PHRASE_TOKENS = 64
GENERATION_TOKENS = 4096
"""Prompt tokens per batch of generation."""


@torch.inference_mode()
def write_phrases(model: Any, prompt: PromptIds, rows: Sequence[Row], max_length: int) -> list[Phrases]:
    """What the model writes for each row.

    Args:
        model: a causal language model.
        prompt: the instruction and cue under its tokenizer.
        rows: text and level are read.
        max_length: tokens of prompt and phrases together.
    """
    limit = max(max_length - MAX_PHRASE_TOKENS, 16)
    ids = [prompt.of(row["text"], max_tokens=limit, keep_end=row["level"] == "user") for row in rows]
    written: list[Phrases] = [([], []) for _ in rows]
    with progress("student: write phrases", len(rows)) as advance:
        for batch in token_batches([len(row) for row in ids], GENERATION_TOKENS):
            for row, text in zip(batch, _generate(model, prompt.tokenizer, [ids[row] for row in batch]), strict=True):
                written[row] = parse_completion(text)
            advance(len(batch))
    return written


def taught_phrases(rows: Sequence[Row]) -> list[Phrases]:
    """(explicit, implicit) phrases of the teacher."""
    return [(row["explicit_phrases"], row["implicit_phrases"]) for row in rows]


def scored_rows(rows: Sequence[Row], said: Sequence[Phrases], gold: Sequence[Phrases]) -> list[ScoredRow]:
    """What was said of each row beside what should have been said."""
    return [
        ScoredRow(level=row["level"], stratum=row["stratum"], predicted=predicted, gold=wanted)
        for row, predicted, wanted in zip(rows, said, gold, strict=True)
    ]


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
