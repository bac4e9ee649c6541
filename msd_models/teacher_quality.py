"""teacher_quality: how good the teacher's rows are, how much of them is news, and how far they stand for the catalogue.

Folder: `quality.json` with everything by level and stratum; the report draws it. teacher_outputs is read in batches
and reduced to sums, so that memory does not grow with its rows; only the probe's rows and the gold ones are held.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from msd_models.coverage import coverage
from msd_models.gold import GoldRow, gold_for, match_gold
from msd_models.phrase_scores import LISTS, ScoredRow, measure
from msd_models.phrase_threshold import Threshold, choose_threshold
from msd_models.phrases import Encode
from msd_models.redundancy import ProbeRow, redundancy, sentence
from msd_models.stable_sample import StableSample
from msd_models.teacher_tally import TeacherTally
from pipeline.config import TeacherQuality
from pipeline.errors import ConfigError
from pipeline.progress import progress
from pipeline.source_tables import Source
from pipeline.storage import Dataset, Outcome, write_atomically

BATCH_ROWS = 8192
Row = Mapping[str, Any]


@dataclass(kw_only=True)
class _Held:
    """The few rows that are looked at one by one."""

    probe: dict[str, StableSample[Row]] = field(default_factory=dict)
    """By level, at most max_probe_rows each."""
    gold: list[tuple[Row, GoldRow]] = field(default_factory=list)


def examine(
    config: TeacherQuality,
    folder: Path,
    teacher_outputs: Dataset,
    prompts: Dataset,
    items: Dataset,
    item_stats: Dataset,
    source: Source | None = None,
) -> Outcome:
    """Measures the teacher's rows and writes `quality.json`.

    Args:
        config: encoder, probe, τ and gold.
        folder: gets `quality.json`.
        teacher_outputs: what is judged.
        prompts: the sample, with inclusion probabilities.
        items: the catalogue.
        item_stats: exposures.
        source: whose name says which of the shipped gold files fits.

    Returns:
        rows_ok are the rows examined; the details hold `quality.json` but for the strata.

    Raises:
        ConfigError: fewer than two folds, or a τ that is no cosine.
        SourceError: a gold or pairs file that cannot be read.
    """
    from msd_models.sentence_encoder import SentenceEncoder

    if config.probe_folds < 2:
        raise ConfigError(f"[teacher_quality] probe_folds is {config.probe_folds}; wanted 2 or more")
    gold = gold_for(config, source.name if source else None)
    encode = SentenceEncoder(config.phrase_encoder).encode
    tally, held = _read(config, teacher_outputs, gold)
    threshold = choose_threshold(config, encode)
    quality = {
        "rates": tally.facts(),
        "redundancy": _probe(config, held.probe, encode),
        "coverage": coverage(prompts, items, item_stats),
        "tau": asdict(threshold),
        "gold": _against_gold(held.gold, encode, threshold, config.seed),
    }
    write_atomically(folder / "quality.json", json.dumps(quality, indent=1, ensure_ascii=False).encode())
    return Outcome(rows_in=tally.rows, rows_ok=tally.rows, details=without_strata(quality))


def without_strata(facts: Mapping[str, Any]) -> dict[str, Any]:
    """The same facts without the lists that grow with the catalogue's categories."""
    return {
        key: without_strata(value) if isinstance(value, Mapping) else value
        for key, value in facts.items()
        if key != "strata"
    }


def _read(config: TeacherQuality, teacher_outputs: Dataset, gold: Sequence[GoldRow]) -> tuple[TeacherTally, _Held]:
    tally, held = TeacherTally(), _Held()
    with progress("teacher_quality: read", teacher_outputs.num_rows()) as advance:
        for batch in teacher_outputs.batches(BATCH_ROWS):
            tally.add(batch)
            usable = [row for row in batch.to_pylist() if row["status"] == "ok"]
            if gold:
                held.gold += match_gold(usable, gold)
            # A collapsed row has its representative's phrases: beside it, the probe would see its own answer.
            for row in usable:
                if row["representative_id"] == row["prompt_id"]:
                    sample = StableSample[Row](config.max_probe_rows, seed=config.seed, purpose="probe")
                    held.probe.setdefault(row["level"], sample).offer(row["prompt_id"], row)
            advance(batch.num_rows)
    return tally, held


def _probe(
    config: TeacherQuality, samples: Mapping[str, StableSample[Row]], encode: Encode
) -> dict[str, dict[str, Any]]:
    """By level and list: the probe's numbers and what they mean; None where there are too few rows."""
    found: dict[str, dict[str, Any]] = {}
    with progress("teacher_quality: redundancy probe", len(samples) * len(LISTS), "probes") as advance:
        for level, sample in sorted(samples.items()):
            for listed in LISTS:
                probed = [
                    ProbeRow(key=row["prompt_id"], text=row["text"], phrases=row[f"{listed}_phrases"])
                    for row in sample.rows()
                ]
                made = redundancy(probed, encode, folds=config.probe_folds, seed=config.seed)
                told = {**asdict(made), "sentence": sentence(level, listed, made)} if made else None
                found.setdefault(level, {})[listed] = told
                advance()
    return found


def _against_gold(
    matched: Sequence[tuple[Row, GoldRow]], encode: Encode, threshold: Threshold, seed: int
) -> dict[str, Any] | None:
    """The teacher's F1 against hand-written phrases; None where it read none of their texts."""
    rows = [
        ScoredRow(
            level=row["level"],
            stratum=row["stratum"],
            predicted=(row["explicit_phrases"], row["implicit_phrases"]),
            gold=wanted.phrases,
        )
        for row, wanted in sorted(matched, key=lambda pair: pair[0]["prompt_id"])
    ]
    if not rows:
        return None
    measured = measure(rows, encode, threshold.value, seed=seed)
    return {
        "rows": len(rows),
        "f1_micro": measured.micro,
        "f1_micro_interval": measured.micro_interval,
        "f1_macro": measured.macro,
        "f1_macro_interval": measured.macro_interval,
        "by_list": measured.by_list,
    }
