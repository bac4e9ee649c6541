"""The student against phrases written by hand: what it says of the catalogue's items and of users that gold rows name.

The teacher is measured against the same phrases in teacher_quality, on the texts it read; the student reads them all.
Texts it was trained on are counted beside the score, since the teacher's phrases for them were shown to it.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from msd_models.checkpoint_choice import Judge
from msd_models.distillation_rows import Row, Split
from msd_models.gold import GoldRow, match_gold
from msd_models.phrase_scores import measure
from msd_models.phrase_writing import scored_rows, write_phrases
from msd_models.student_prompt import PromptIds
from pipeline.storage import Dataset
from pipeline.texts import item_text

BATCH_ROWS = 8192


GoldPair = tuple[Row, GoldRow]
"""A text of this source, with its level and stratum, and the phrases wanted of it."""


def find_gold(gold: Sequence[GoldRow], items: Dataset, split: Split) -> list[GoldPair]:
    """The gold rows that are about texts of this source.

    Args:
        gold: of `gold.gold_for`.
        items: the catalogue, whose titles item rows are found by.
        split: users are found among its rows.
    """
    users = [row for part in (split.train, split.choosing, split.holdout) for row in part if row["level"] == "user"]
    return match_gold([*_item_rows(items, gold), *users], gold)


def against_gold(
    model: Any, prompt: PromptIds, gold: Sequence[GoldPair], split: Split, judge: Judge
) -> dict[str, Any] | None:
    """F1 with its intervals against gold phrases; None without a gold row.

    Args:
        model: as exported.
        prompt: the words around a text under its tokenizer.
        gold: of `find_gold`.
        split: whose training texts are counted.
        judge: encoder, threshold and settings.
    """
    if not gold:
        return None
    rows = [row for row, _ in gold]
    said = write_phrases(model, prompt, rows, judge.config.max_length)
    scored = scored_rows(rows, said, [wanted.phrases for _, wanted in gold])
    measured = measure(scored, judge.encode, judge.threshold, seed=judge.config.seed)
    trained_on = {row["text"] for row in split.train}
    return {
        "rows": len(rows),
        "rows_trained_on": sum(row["text"] in trained_on for row in rows),
        "f1_micro": round(measured.micro, 4),
        "f1_micro_interval": [round(bound, 4) for bound in measured.micro_interval],
        "f1_macro": round(measured.macro, 4),
        "f1_macro_interval": [round(bound, 4) for bound in measured.macro_interval],
        "by_list": {name: round(value, 4) for name, value in measured.by_list.items()},
    }


def _item_rows(items: Dataset, gold: Sequence[GoldRow]) -> Iterator[Row]:
    """The catalogue's items that gold rows name; without an item row among them the catalogue is not read."""
    if not any(wanted.level == "item" for wanted in gold):
        return
    for batch in items.batches(BATCH_ROWS):
        rows = [
            {"level": "item", "stratum": item["category"], "text": item_text(item["text"], dict(item["attributes"]))}
            for item in batch.to_pylist()
        ]
        yield from (row for row, _ in match_gold(rows, gold))
