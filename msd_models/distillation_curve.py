"""What distillation is worth downstream: students of growing shares of the data, their phrase F1 against the AUC.

The paper's Figure 4, with what a reader needs beside it: intervals of the F1, the spread of the test AUC over training
seeds, and the two lines it must rise above, `din` without any vector and `raw_text` without a teacher.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from msd_models.comparison import compare_arms
from msd_models.pictures import drawing_board, save_picture
from msd_models.scores import read_scores
from pipeline.storage import Dataset

SEMANTIC_ARM = "msd_frozen"
REFERENCE_ARMS = ("din", "raw_text", "shuffled_vectors")
ROUNDS = 500
COLOURS = {False: "#0b62c4", True: "#b3246f"}
REFERENCE_STYLES = {"din": ("#59636e", ":"), "raw_text": ("#a15c00", "--"), "shuffled_vectors": ("#c9a36b", "-.")}
Point = Mapping[str, Any]


def measure_point(student: Dataset, ctr_model: Dataset) -> dict[str, Any]:
    """The F1 of one student and the AUCs of the CTR models that read its vectors.

    Returns:
        `f1_micro` with its interval, and arm → AUC over seeds with its interval over users; differences to the other
        arms are paired, [low, mean, high].
    """
    facts = student.details
    arms = {arm["name"]: arm for arm in compare_arms(read_scores(ctr_model), rounds=ROUNDS, seed=0)}
    return {
        "train_rows": facts["train_rows"],
        "f1_micro": facts["f1_micro"],
        "f1_micro_interval": facts["f1_micro_interval"],
        "f1_untrained_micro": facts["f1_untrained_micro"],
        "arms": {
            name: {key: arm[key] for key in ("auc", "auc_ci", "auc_by_seed", "delta_auc_vs")}
            for name, arm in arms.items()
        },
    }


def draw_curve(folder: Path, points: Sequence[Point]) -> None:
    """Writes `curve.png` and `curve.svg`: F1 to the right, AUC of the semantic arm upwards.

    Args:
        folder: exists.
        points: of `measure_point`, each with `share` and `augmented`.
    """
    pyplot = drawing_board()
    figure, axes = pyplot.subplots(figsize=(8, 5), layout="constrained")
    for is_augmented in (False, True):
        _draw_students(axes, [point for point in points if point["augmented"] is is_augmented], is_augmented)
    for arm, (colour, style) in REFERENCE_STYLES.items():
        aucs = [point["arms"][arm]["auc"] for point in points if arm in point["arms"]]
        if aucs:
            axes.axhline(float(np.mean(aucs)), color=colour, linestyle=style, linewidth=1.3, label=arm)
    axes.set_xlabel("phrase F1 against held-out teacher rows (micro, 95% interval)")
    axes.set_ylabel("test AUC (mean over seeds; bars: lowest and highest seed)")
    axes.grid(visible=True, alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    save_picture(figure, folder, "curve")


def table_lines(points: Sequence[Point]) -> list[str]:
    """The same numbers in columns, for a terminal."""
    header = ("share", "augmented", "rows", "phrase F1", "", SEMANTIC_ARM, "seeds", "Δ to raw_text")
    widths = (6, 11, 8, 11, 17, 12, 16, 27)
    lines = ["".join(text.rjust(width) for text, width in zip(header, widths, strict=True))]
    for point in points:
        arm = point["arms"][SEMANTIC_ARM]
        low, high = point["f1_micro_interval"]
        delta = arm["delta_auc_vs"].get("raw_text")
        cells = (
            f"{point['share']:.0%}",
            "yes" if point["augmented"] else "no",
            f"{point['train_rows']:,}",
            f"{point['f1_micro']:.3f}",
            f"[{low:.3f}, {high:.3f}]",
            f"{arm['auc']:.4f}",
            f"{min(arm['auc_by_seed']):.4f}…{max(arm['auc_by_seed']):.4f}",
            "–" if delta is None else f"{delta[1]:+.4f} [{delta[0]:+.4f}, {delta[2]:+.4f}]",
        )
        lines.append("".join(text.rjust(width) for text, width in zip(cells, widths, strict=True)))
    for arm in REFERENCE_ARMS:
        aucs = [point["arms"][arm]["auc"] for point in points if arm in point["arms"]]
        if aucs:
            lines.append(f"{arm}: AUC {np.mean(aucs):.4f} (mean of the {len(aucs)} runs beside the students)")
    return lines


def _draw_students(axes: Any, points: Sequence[Point], is_augmented: bool) -> None:
    if not points:
        return
    ordered = sorted(points, key=lambda point: point["share"])
    f1 = np.array([point["f1_micro"] for point in ordered])
    f1_ends = np.array([point["f1_micro_interval"] for point in ordered]).T
    auc = np.array([point["arms"][SEMANTIC_ARM]["auc"] for point in ordered])
    by_seed = [point["arms"][SEMANTIC_ARM]["auc_by_seed"] for point in ordered]
    auc_ends = np.array([[min(seeds), max(seeds)] for seeds in by_seed]).T
    axes.errorbar(
        f1,
        auc,
        xerr=np.abs(f1_ends - f1),
        yerr=np.abs(auc_ends - auc),
        color=COLOURS[is_augmented],
        marker="s" if is_augmented else "o",
        linewidth=1.8,
        elinewidth=0.8,
        capsize=2.5,
        label=f"{SEMANTIC_ARM}, augmented" if is_augmented else SEMANTIC_ARM,
    )
    for point, x, y in zip(ordered, f1, auc, strict=True):
        axes.annotate(f"{point['share']:.0%}", (x, y), xytext=(6, 6), textcoords="offset points", fontsize=9)
