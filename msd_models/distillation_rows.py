"""Teacher rows as training rows: which are trained on, chosen by or held out, and their token ids and labels.

A row's part is decided by a hash of its entity's id, so that the choice depends neither on order nor on other rows. The
epoch is chosen on one part and the F1 measured once on another: a best of several epochs would flatter itself. A row
whose words, or whose near-duplicate the teacher read in its place, stand in an earlier part is skipped: the same text
under another id would leak.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from msd_models.stable_sample import stable_hash
from msd_models.student_prompt import PromptIds
from pipeline.config import Student
from pipeline.errors import ConfigError

IGNORED = -100
"""Label of a token that carries no loss."""
Row = Mapping[str, Any]
"""A row of teacher_outputs."""


@dataclass(frozen=True, kw_only=True)
class Split:
    """Teacher rows by what they are used for; together they are all rows."""

    train: list[Row]
    choosing: list[Row]
    """The epoch is chosen on these."""
    holdout: list[Row]
    """The F1 is measured on these, once."""
    skipped: list[Row]
    """Rejected by the teacher, the same text as a row of an earlier part, or beyond train_share."""


def split_rows(rows: Sequence[Row], config: Student) -> Split:
    """Parts rows into hold-out, choosing, train and skipped.

    Raises:
        ConfigError: shares that leave nothing to train on.
    """
    _check_shares(config)
    usable = [row for row in rows if row["status"] == "ok"]
    parts = _entity_parts({row["entity_id"] for row in usable}, config)
    taken: set[str] = set()
    chosen: dict[str, list[Row]] = {}
    for part in ("holdout", "choosing", "train"):
        chosen[part] = [row for row in usable if parts[row["entity_id"]] == part and not _marks(row) & taken]
        for row in chosen[part]:
            taken |= _marks(row)
    chosen["train"] = _share_of(chosen["train"], config)
    used = {row["prompt_id"] for kept in chosen.values() for row in kept}
    return Split(**chosen, skipped=[row for row in rows if row["prompt_id"] not in used])


def drawn_rows(rows: Iterable[Row], seed: int, count: int) -> list[Row]:
    """At most count rows, those with the smallest hash of their prompt_id: items and users in their proportion."""
    return sorted(rows, key=lambda row: (draw("measured", seed, row["prompt_id"]), row["prompt_id"]))[:count]


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


def draw(purpose: str, seed: int, key: str) -> float:
    """A number in [0, 1) from purpose, seed and key alone."""
    return stable_hash(f"{purpose}\0{seed}", key) / 2**64


def _check_shares(config: Student) -> None:
    shares = (config.holdout_share, config.choosing_share)
    if min(shares) < 0 or sum(shares) >= 1 or not 0 < config.train_share <= 1:
        raise ConfigError(
            f"[student] holdout_share is {config.holdout_share:g}, choosing_share {config.choosing_share:g} and"
            f" train_share {config.train_share:g}; wanted the first two below 1 together, and train_share in (0, 1]"
        )


def _entity_parts(entities: set[str], config: Student) -> dict[str, str]:
    """The part of each entity; where a share is wanted but no entity falls into it, the nearest one is moved there."""
    draws = {entity: draw("holdout", config.seed, entity) for entity in entities}
    order = sorted(entities, key=lambda entity: (draws[entity], entity))
    bound = config.holdout_share + config.choosing_share
    num_held = sum(value < config.holdout_share for value in draws.values())
    if config.holdout_share > 0 and len(order) > 1:
        num_held = max(num_held, 1)
    num_kept = max(sum(value < bound for value in draws.values()), num_held)
    if config.choosing_share > 0 and len(order) > 2:
        num_kept = max(num_kept, num_held + 1)
    names = ["holdout"] * num_held + ["choosing"] * (num_kept - num_held)
    return {entity: names[place] if place < num_kept else "train" for place, entity in enumerate(order)}


def _marks(row: Row) -> set[str]:
    """What two rows of different parts must not share: the words of their texts, and the text the teacher read."""
    words = " ".join(row["text"].split()).casefold()
    return {f"text\0{words}", f"read\0{row['representative_id']}"}


def _share_of(rows: list[Row], config: Student) -> list[Row]:
    """Rows of the entities whose hash lies below train_share, the nearest one where none does."""
    draws = {row["entity_id"]: draw("train", config.seed, row["entity_id"]) for row in rows}
    bound = max(config.train_share, min(draws.values(), default=0.0))
    return [row for row in rows if draws[row["entity_id"]] <= bound]
