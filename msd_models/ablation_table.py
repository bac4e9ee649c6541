"""The paper's Tables 2 and 3 on one's own data: every arm with its interval, and what each part of MSD is worth.

All arms are of one ctr_model and are judged on the same resamples of test users and seeds. Table 2 is every model
beside the others with RelaImpr over DeepFM; Table 3 takes one thing away from MSD, or sets it otherwise, and shows the
paired difference to MSD as it is: below zero, the part was worth having.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from msd_models.bootstrap import Resampled, interval
from msd_models.comparison import BASE_ARM, describe, kinds_of, relative_base, resample
from msd_models.leaks import read_leaks
from msd_models.metrics import rela_impr
from msd_models.pictures import drawing_board, save_picture
from msd_models.scores import ScoredRows, read_scores
from msd_models.verdict import judge, sentences
from pipeline.storage import Dataset

WHOLE_ARM = "msd"
OPPONENT = "din"
ROUNDS = 1000
LABELS = {
    "msd_frozen": "without LoRA",
    "msd_no_fusion": "without item fusion",
    "msd_no_user": "without user level",
}
UNTUNED = (
    "LoRA did not help on valid, so that the student stays as it is: MSD without LoRA reads the same vectors, and what"
    " parts the two is chance."
)
COLOURS = {"tabular": "#59636e", "placebo": "#a15c00", "semantic": "#0b62c4", "distilled": "#6f42c1"}
Table = Sequence[Mapping[str, Any]]


def measure(
    ctr_model: Dataset, audit: Dataset, tuned_student: Dataset, tables: Mapping[int, Sequence[str]]
) -> dict[str, Any]:
    """The tables' numbers.

    Args:
        ctr_model: with all arms of the tables.
        audit: of the same examples.
        tuned_student: whose vectors MSD reads.
        tables: 2 and 3, or one of them, with their arms in order.

    Returns:
        `tables` as {"2": rows, "3": rows}, `verdict` over the arms of Table 2, what they rest on: `seeds`, `test`,
        `audit`, and whether LoRA changed the student at all.
    """
    rows = read_scores(ctr_model)
    resampled = resample(rows, list(rows.scores), rounds=ROUNDS, seed=0)
    leaks = read_leaks(audit)
    shared = _manifest(ctr_model)["settings"]
    measured: dict[str, Any] = {}
    if 2 in tables:
        measured["2"] = [_model_row(arm, rows, resampled) for arm in tables[2]]
    if 3 in tables:
        measured["3"] = [_part_row(arm, rows, resampled, shared) for arm in tables[3]]
    told = [entry for entry in describe(rows, resampled) if entry["name"] in tables.get(2, ())]
    return {
        "source": _manifest(ctr_model)["source"],
        "seeds": list(rows.seeds),
        "test": {"rows": len(rows.labels), "clicks": int(rows.labels.sum()), "users": rows.num_users},
        "rounds": ROUNDS,
        "audit": leaks.sentence(),
        "is_tuned": tuned_student.details["is_tuned"],
        "tables": measured,
        "verdict": sentences(judge(told, leaks), leaks) if told or leaks.total else [],
    }


def text_lines(facts: Mapping[str, Any]) -> list[str]:
    """The tables in columns, for a terminal."""
    lines = [_headline(facts)]
    for number, (title, header, cells) in _laid_out(facts).items():
        widths = [max(len(row[place]) for row in (header, *cells)) for place in range(len(header))]
        lines += ["", f"Table {number}: {title}"]
        for row in (header, *cells):
            first = row[0].ljust(widths[0])
            rest = (cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))
            lines.append("  ".join([first, *rest]).rstrip())
    return [*lines, "", *facts["verdict"]] if facts["verdict"] else lines


def markdown(facts: Mapping[str, Any]) -> str:
    """The same tables in Markdown."""
    parts = [f"# Ablations on {facts['source']}\n", _headline(facts) + "\n"]
    for number, (title, header, cells) in _laid_out(facts).items():
        parts.append(f"## Table {number}: {title}\n")
        rule = ["---", *("---:" for _ in header[1:])]
        parts.append("\n".join("| " + " | ".join(row) + " |" for row in (header, rule, *cells)) + "\n")
    return "\n".join([*parts, *(f"{sentence}\n" for sentence in facts["verdict"])])


def draw(folder: Path, facts: Mapping[str, Any]) -> None:
    """Writes `ablation.png` and `ablation.svg`: a forest plot a table, all intervals of one table on one scale."""
    pyplot = drawing_board()
    tables: dict[str, Table] = facts["tables"]
    heights = [len(rows) for rows in tables.values()]
    figure, panels = pyplot.subplots(
        len(tables),
        1,
        figsize=(9, 1.6 * len(tables) + 0.33 * sum(heights)),
        layout="constrained",
        squeeze=False,
        height_ratios=heights,
    )
    for axes, (number, rows) in zip(panels[:, 0], tables.items(), strict=True):
        base, key = (OPPONENT, "delta_auc_vs_din") if number == "2" else (WHOLE_ARM, "delta_auc_vs_msd")
        _draw_forest(axes, rows, key)
        axes.set_title(f"Table {number}", loc="left")
        axes.set_xlabel(f"Δ AUC to {base}, 95% interval over users and seeds")
    save_picture(figure, folder, "ablation")


def _manifest(dataset: Dataset) -> dict[str, Any]:
    manifest = dataset.manifest
    assert manifest is not None, "the run that made it has committed it"
    return manifest


def _model_row(arm: str, rows: ScoredRows, resampled: Resampled) -> dict[str, Any]:
    base = relative_base(resampled)
    relative = None
    if base is not None:
        in_rounds = zip(resampled.rounds(arm), resampled.rounds(BASE_ARM), strict=True)
        low, high = interval(np.array([rela_impr(one, other) for one, other in in_rounds]))
        relative = [low, rela_impr(resampled.mean(arm), base), high]
    return {
        "arm": arm,
        "label": arm,
        "kind": str(kinds_of(rows)[arm]),
        "auc": resampled.mean(arm),
        "auc_ci": resampled.interval(arm),
        "auc_by_seed": resampled.measured[arm].tolist(),
        "rela_impr": relative,
        "delta_auc_vs_din": resampled.difference(arm, OPPONENT),
        "params": rows.runs[arm][0].get("params"),
    }


def _part_row(arm: str, rows: ScoredRows, resampled: Resampled, shared: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "arm": arm,
        "label": _label(arm, {**shared, **rows.runs[arm][0]["settings"]}),
        "kind": str(kinds_of(rows)[arm]),
        "auc": resampled.mean(arm),
        "auc_ci": resampled.interval(arm),
        "auc_by_seed": resampled.measured[arm].tolist(),
        "delta_auc_vs_msd": resampled.difference(arm, WHOLE_ARM),
    }


def _label(arm: str, settings: Mapping[str, Any]) -> str:
    if arm == WHOLE_ARM:
        return f"MSD (mask {settings['mask']}, k = {settings['top_k']})"
    if arm.startswith("msd_mask_"):
        return f"mask {settings['mask']}"
    return f"k = {settings['top_k']}" if arm.startswith("msd_k_") else LABELS.get(arm, arm)


def _headline(facts: Mapping[str, Any]) -> str:
    test = facts["test"]
    untuned = "" if facts["is_tuned"] else f" {UNTUNED}"
    return (
        f"{facts['source']}: {test['rows']:,} test rows of {test['users']:,} users, {len(facts['seeds'])} seeds; 95%"
        f" intervals from {facts['rounds']:,} resamples of users and seeds. {facts['audit']}{untuned}"
    )


def _laid_out(facts: Mapping[str, Any]) -> dict[str, tuple[str, list[str], list[list[str]]]]:
    """Table number → title, header and cells."""
    laid: dict[str, tuple[str, list[str], list[list[str]]]] = {}
    for number, rows in facts["tables"].items():
        if number == "2":
            known = any(row["rela_impr"] for row in rows)
            title = f"every model; RelaImpr in percent over {BASE_ARM}"
            title += "" if known else f", none here: {BASE_ARM} may be no better than chance"
            header = ["model", "AUC", "95% interval", "RelaImpr", "95% interval", f"Δ AUC to {OPPONENT}"]
            cells = [
                [
                    row["label"],
                    f"{row['auc']:.4f}",
                    _between(row["auc_ci"], ".4f"),
                    *_relative(row["rela_impr"], row["arm"]),
                    _delta(row["delta_auc_vs_din"]) if row["arm"] != OPPONENT else "–",
                ]
                for row in rows
            ]
        else:
            title = f"what each part of {WHOLE_ARM} is worth; below zero, it was worth having"
            header = ["arm", "AUC", "95% interval", f"Δ AUC to {WHOLE_ARM}"]
            cells = [
                [
                    row["label"],
                    f"{row['auc']:.4f}",
                    _between(row["auc_ci"], ".4f"),
                    _delta(row["delta_auc_vs_msd"]) if row["arm"] != WHOLE_ARM else "–",
                ]
                for row in rows
            ]
        laid[number] = (title, header, cells)
    return laid


def _relative(relative: Sequence[float] | None, arm: str) -> tuple[str, str]:
    if relative is None:
        return "–", "–"
    return ("0", "–") if arm == BASE_ARM else (f"{relative[1]:+.2f}", _between(relative[::2], "+.2f"))


def _between(ends: Sequence[float], form: str) -> str:
    return f"[{ends[0]:{form}}, {ends[1]:{form}}]"


def _delta(delta: Sequence[float]) -> str:
    return f"{delta[1]:+.4f} [{delta[0]:+.4f}, {delta[2]:+.4f}]"


def _draw_forest(axes: Any, rows: Table, key: str) -> None:
    for place, row in enumerate(rows):
        low, mean, high = row[key]
        colour = COLOURS[row["kind"]]
        axes.plot([low, high], [place, place], color=colour, linewidth=1.8)
        axes.plot([mean], [place], marker="o", color=colour)
    axes.axvline(0, color="#1b1f24", linestyle=":", linewidth=1)
    axes.set_yticks(range(len(rows)), [row["label"] for row in rows])
    axes.invert_yaxis()
    axes.grid(visible=True, axis="x", alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
