"""How well a student says what the teacher said, beside three who do not know it: its F1 and where it is weakest."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from msd_models.checkpoint_choice import Judge
from msd_models.distillation_rows import Row, Split, drawn_rows
from msd_models.phrase_baselines import frequent_phrases, nearest_phrases
from msd_models.phrase_scores import Measured, Phrases, measure
from msd_models.phrase_threshold import Threshold
from msd_models.phrase_writing import scored_rows, taught_phrases, write_phrases
from msd_models.student_prompt import PromptIds
from pipeline.storage import write_atomically, write_shard

STUDENT = "student"
PEERS = ("untrained", "frequent", "nearest")
"""The same layers before training; the stratum's most frequent phrases; the phrases of the nearest row trained on."""


@dataclass(frozen=True, kw_only=True)
class Quality:
    """What was said of the rows held out, and what it is worth."""

    rows: list[Row]
    said: Mapping[str, Sequence[Phrases]]
    """By the student and each of PEERS."""
    scores: Mapping[str, Measured]
    strata: Mapping[str, Mapping[str, tuple[float, int]]]
    """level → stratum → (F1, rows), over the rows for choosing as well."""

    def details(self) -> dict[str, Any]:
        """The facts for the manifest."""
        own = self.scores[STUDENT]
        return {
            "f1_micro": round(own.micro, 4),
            "f1_micro_interval": [round(bound, 4) for bound in own.micro_interval],
            "f1_macro": round(own.macro, 4),
            "f1_macro_interval": [round(bound, 4) for bound in own.macro_interval],
            "f1_by_level": {name: round(value, 4) for name, value in own.by_level.items()},
            "f1_by_list": {name: round(value, 4) for name, value in own.by_list.items()},
            **{f"f1_{name}_micro": round(self.scores[name].micro, 4) for name in PEERS},
            "gold_rows": len(self.rows),
        }


def measure_student(model: Any, prompt: PromptIds, split: Split, untrained: Sequence[Phrases], judge: Judge) -> Quality:
    """Lets the student write phrases and compares everybody's with the teacher's.

    Args:
        model: as exported.
        prompt: the words around a text under its tokenizer.
        split: the rows held out are measured; the peers learn from the rows trained on.
        untrained: what the student wrote of `drawn_rows(split.holdout)` before training.
        judge: encoder, threshold and settings.
    """
    config = judge.config
    rows = drawn_rows(split.holdout, config.seed, config.max_holdout_rows)
    said = {
        STUDENT: write_phrases(model, prompt, rows, config.max_length),
        "untrained": list(untrained),
        "frequent": frequent_phrases(split.train, rows),
        "nearest": nearest_phrases(split.train, rows, judge.encode),
    }
    gold = taught_phrases(rows)
    scores = {
        name: measure(scored_rows(rows, phrases, gold), judge.encode, judge.threshold, seed=config.seed)
        for name, phrases in said.items()
    }
    more = drawn_rows(split.choosing, config.seed, config.max_holdout_rows)
    wider = scored_rows(
        [*rows, *more],
        [*said[STUDENT], *write_phrases(model, prompt, more, config.max_length)],
        taught_phrases([*rows, *more]),
    )
    strata = measure(wider, judge.encode, judge.threshold, rounds=1).by_stratum
    return Quality(rows=rows, said=said, scores=scores, strata=strata)


def write_quality(folder: Path, quality: Quality) -> None:
    """`holdout.parquet`: everybody's phrases row by row; `strata.json`: F1 and rows of each level and stratum."""
    copied = ("prompt_id", "level", "entity_id", "stratum", "text")
    columns = {name: pa.array([row[name] for row in quality.rows], pa.string()) for name in copied}
    for name, phrases in {"teacher": taught_phrases(quality.rows), **quality.said}.items():
        for place, kind in enumerate(("explicit", "implicit")):
            listed = [both[place] for both in phrases]
            columns[f"{name}_{kind}"] = pa.array(listed, pa.list_(pa.string()))
    columns["f1"] = pa.array(quality.scores[STUDENT].rows, pa.float64())
    write_shard(folder / "holdout.parquet", pa.table(columns))
    strata = {
        level: {name: {"f1": round(value, 4), "rows": rows} for name, (value, rows) in found.items()}
        for level, found in quality.strata.items()
    }
    write_atomically(folder / "strata.json", json.dumps(strata, indent=1, ensure_ascii=False).encode())


def threshold_facts(threshold: Threshold) -> dict[str, Any]:
    """τ and the sweep it was chosen from, for the manifest."""
    return {
        "tau": threshold.value,
        "tau_pairs": threshold.num_pairs,
        "tau_cross_validated_f1": threshold.cross_validated_f1,
        "tau_sweep": [
            [point.threshold, round(point.precision, 4), round(point.recall, 4), round(point.f1, 4)]
            for point in threshold.sweep
        ],
    }
