"""The report: report.json and one self-contained report.html from the scores of all arms and every stage's manifest.

Everything measured comes from `comparison` and `slices`, every claim from `verdict`; this module gathers, and
`report_page` lays out. A number that a stage did not give is left out, never guessed.
"""

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq

from msd_models.bootstrap import CONFIDENCE
from msd_models.cold_verdict import cold_sentences
from msd_models.comparison import compare_arms, reliability_curves
from msd_models.leaks import Leaks, read_leaks
from msd_models.report_digest import report_digest
from msd_models.report_page import render
from msd_models.scores import ScoredRows, read_scores
from msd_models.slices import cold_items, exposure_buckets, slices
from msd_models.verdict import judge, sentences
from pipeline.config import Report
from pipeline.errors import StageError
from pipeline.storage import Dataset, Outcome, write_atomically

SHOWN_TEXT = 400
"""Characters of an item's text in the report."""
DISTILLATION_FACTS = (
    "f1_micro",
    "f1_micro_interval",
    "f1_macro",
    "f1_macro_interval",
    "f1_by_level",
    "f1_by_list",
    "f1_untrained_micro",
    "f1_frequent_micro",
    "f1_nearest_micro",
    "gold",
    "tau",
    "gold_rows",
    "train_rows",
    "augmented_rows",
    "train_tokens",
    "train_loss_first",
    "train_loss_last",
    "tokens_per_second",
    "choose_by",
    "chosen_epoch",
)
EMBEDDING_STAGES = (
    "item_vectors",
    "user_vectors",
    "context_vectors",
    "item_text_vectors",
    "user_text_vectors",
    "context_text_vectors",
    "tuned_item_vectors",
    "tuned_user_vectors",
    "tuned_context_vectors",
)


def write_report(config: Report, folder: Path, **datasets: Dataset) -> Outcome:
    """Writes report.json and report.html into folder, and copies of both beside it, where the latest one is looked for.

    Args:
        config: settings of the report.
        folder: of the dataset; its parent gets the copies.
        datasets: those of `pipeline.stages.REPORTED` that the compared arms need, committed. Without vector arms there
            is no teacher, student, embedding or publication, and these parts of the report are empty.

    Raises:
        StageError: the scores cannot be compared; see `scores.read_scores`.
    """
    rows = read_scores(datasets["ctr_model"])
    report = _finite(_gather(config, rows, datasets))
    report["digest"] = report_digest(report)
    examples = _phrases_side_by_side(datasets, config.shown_items)
    pages = {
        "report.json": json.dumps(report, indent=1, allow_nan=False, ensure_ascii=False).encode(),
        "report.html": render(report, examples).encode(),
    }
    for target in (folder, folder.parent):
        for name, content in pages.items():
            write_atomically(target / name, content)
    found = {claim["arm"]: claim["finding"] for claim in report["claims"]}
    details = {"claims": found, "digest": report["digest"]}
    return Outcome(rows_in=len(rows.labels), rows_ok=len(rows.labels), details=details)


def _gather(config: Report, rows: ScoredRows, datasets: Mapping[str, Dataset]) -> dict[str, Any]:
    manifests = {name: _manifest(dataset) for name, dataset in datasets.items()}
    trained = manifests["ctr_model"]["details"]
    compared = _comparison(config, rows, read_leaks(datasets["audit"]))
    teacher = _teacher(datasets, manifests) if "teacher_outputs" in datasets else {}
    distilled = _picked(manifests["student"]["details"], DISTILLATION_FACTS) if "student" in datasets else {}
    tuned = _tuning(datasets["tuned_student"], manifests) if "tuned_student" in datasets else {}
    return {
        "source": manifests["ctr_model"].get("source"),
        # Of the newest dataset reported on: a stage has no clock, so the same inputs give the same report.
        "created_at": max(str(manifest.get("created_at", "")) for manifest in manifests.values()),
        "space_id": trained.get("space_id"),
        "split": {**trained.get("split", {}), "digest": trained.get("split_digest")},
        "test": {"rows": len(rows.labels), "clicks": int(rows.labels.sum()), "users": rows.num_users},
        "seeds": list(rows.seeds),
        **compared,
        "cold_verdict": cold_sentences(compared["cold"], teacher.get("quality", {}), distilled, tuned),
        "distillation": distilled,
        "tuning": tuned,
        "teacher": teacher,
        "embedding": {name: _work(manifests[name]) for name in EMBEDDING_STAGES if name in manifests},
        "publish": {
            name: {**manifests[name]["details"], **_work(manifests[name])}
            for name in ("item_features", "user_features", "publication")
            if name in manifests
        },
        "stages": [{"name": name, **_counts(manifest)} for name, manifest in manifests.items()],
    }


def _comparison(config: Report, rows: ScoredRows, leaks: Leaks) -> dict[str, Any]:
    """What was measured on the test rows, and what may be said of it."""
    rounds, seed = config.bootstrap_rounds, config.seed
    arms = compare_arms(rows, rounds=rounds, seed=seed)
    claims = judge(arms, leaks)
    drawn = "users and seeds" if len(rows.seeds) > 1 else "users"
    return {
        "bootstrap": {"rounds": rounds, "seed": seed, "resampled": drawn, "confidence": CONFIDENCE},
        "audit": {"checked": leaks.checked, "leaks": leaks.counts, "first": leaks.first, "sentence": leaks.sentence()},
        "verdict": sentences(claims, leaks),
        "claims": [{"arm": claim.arm, "finding": str(claim.finding)} for claim in claims],
        "arms": arms,
        "cold": cold_items(rows, rounds=rounds, seed=seed),
        "exposure": exposure_buckets(rows),
        "slices": slices(rows, rounds=rounds, seed=seed),
        "reliability": reliability_curves(rows),
    }


def _manifest(dataset: Dataset) -> dict[str, Any]:
    manifest = dataset.manifest
    if manifest is None:
        raise StageError(f"report: {dataset.name} is not made yet; run: msd run {dataset.name}")
    return manifest


def _tuning(tuned_student: Dataset, manifests: Mapping[str, Any]) -> dict[str, Any]:
    path = tuned_student.folder / "curve.json"
    return {
        **manifests["tuned_student"]["details"],
        **_work(manifests["tuned_student"]),
        "space_id": manifests["ctr_model"]["details"].get("spaces", {}).get("tuned"),
        "curve": json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {},
    }


def _teacher(datasets: Mapping[str, Dataset], manifests: Mapping[str, Any]) -> dict[str, Any]:
    manifest = manifests["teacher_outputs"]
    table = datasets["teacher_outputs"].table(["prompt_tokens", "output_tokens"])
    output_tokens = pc.sum(table.column("output_tokens")).as_py() or 0
    prompt_tokens = pc.sum(table.column("prompt_tokens")).as_py() or 0
    return {
        "rows": manifest["rows_in"],
        "rejected": manifest["rows_rejected"],
        "reasons": manifest["reasons"],
        "tokens": output_tokens,
        "prompt_tokens": prompt_tokens,
        "seconds": manifest.get("seconds"),
        "quality": json.loads((datasets["teacher_quality"].folder / "quality.json").read_text(encoding="utf-8")),
    }


def _counts(manifest: Mapping[str, Any]) -> dict[str, Any]:
    keys = ("rows_in", "rows_ok", "rows_rejected", "rows_skipped", "reasons", "seconds")
    return _picked(manifest, keys)


def _work(manifest: Mapping[str, Any]) -> dict[str, Any]:
    return {"rows": manifest["rows_ok"], "seconds": manifest.get("seconds")}


def _picked(facts: Mapping[str, Any], keys: tuple[str, ...]) -> dict[str, Any]:
    return {key: facts[key] for key in keys if key in facts}


def _phrases_side_by_side(datasets: Mapping[str, Dataset], num_items: int) -> list[dict[str, Any]]:
    """Held-out items with the phrases of both; drawn by a hash of the id, so that nobody picked the good ones."""
    path = datasets["student"].folder / "holdout.parquet" if "student" in datasets else None
    if path is None or not path.is_file():
        return []
    held = [row for row in pq.read_table(path, partitioning=None).to_pylist() if row["level"] == "item"]
    held.sort(key=lambda row: hashlib.sha256(row["prompt_id"].encode()).hexdigest())
    table = datasets["teacher_outputs"].table(["prompt_id", "rationale"]).to_pydict()
    rationales = dict(zip(table["prompt_id"], table["rationale"], strict=True))
    return [
        {
            "id": row["entity_id"],
            "stratum": row["stratum"],
            "text": _cut(row["text"]),
            "rationale": _cut(rationales.get(row["prompt_id"], "")),
            "f1": row["f1"],
            "kinds": [_phrases(row, "explicit"), _phrases(row, "implicit")],
        }
        for row in held[:num_items]
    ]


def _phrases(row: Mapping[str, Any], kind: str) -> dict[str, Any]:
    teacher, student = row[f"teacher_{kind}"] or [], row[f"student_{kind}"] or []
    shared = {phrase.casefold() for phrase in teacher} & {phrase.casefold() for phrase in student}
    sides = {"teacher": teacher, "student": student}
    return {
        "name": kind,
        **{side: [(phrase, phrase.casefold() in shared) for phrase in said] for side, said in sides.items()},
    }


def _cut(text: str) -> str:
    return text if len(text) <= SHOWN_TEXT else text[: SHOWN_TEXT - 1] + "…"


def _finite(value: Any) -> Any:
    """The same value with None for every number JSON cannot hold."""
    if isinstance(value, Mapping):
        return {str(key): _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
