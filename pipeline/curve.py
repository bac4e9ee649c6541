"""`msd curve`: students of growing shares of the teacher's rows, and what each is worth to the click model.

Every point is an ordinary run under a few other settings, so that it resumes like one: a dataset is keyed by its
settings and inputs, everything above the student is shared by all points, and what a run has made is never made again.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pipeline import runner
from pipeline.errors import UsageError
from pipeline.job import load
from pipeline.progress import note
from pipeline.runner import Plan
from pipeline.storage import write_atomically

ARMS = ("din", "raw_text", "shuffled_vectors", "msd_frozen")
DEFAULT_SHARES = "0.1,0.25,0.5,1.0"
FOLDER = "curve"


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One student of the curve."""

    share: float
    augmented: bool

    def __str__(self) -> str:
        """As notes name it."""
        return f"{self.share:.0%} of the rows" + (", augmented" if self.augmented else "")


def parse_shares(text: str) -> list[float]:
    """The shares of `0.1,0.5,1.0`, ascending, each once.

    Raises:
        UsageError: no share, or one outside (0, 1].
    """
    try:
        shares = sorted({float(part) for part in text.split(",") if part.strip()})
    except ValueError as error:
        raise UsageError(f"--shares {text}: wanted numbers with commas between, such as {DEFAULT_SHARES}") from error
    if not shares or not all(0 < share <= 1 for share in shares):
        raise UsageError(f"--shares {text}: wanted numbers above 0 and up to 1, such as {DEFAULT_SHARES}")
    return shares


def trace(plan: Plan, shares: Sequence[float], *, augmented: bool) -> list[str]:
    """Makes every point and writes curve.json, curve.png, curve.svg and curve.txt into the work folder's `curve/`.

    Args:
        plan: whose source and settings hold for everything but what a point is about.
        shares: of the student's training rows.
        augmented: beside each plain student one with shuffled phrases and replaced words.

    Returns:
        The table's lines.
    """
    folder = plan.workspace.root / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    variants = list(_variants(shares, augmented=augmented))
    points: list[dict[str, Any]] = []
    for number, variant in enumerate(variants, start=1):
        note(f"curve {number}/{len(variants)}: {variant}")
        chosen = variant_plan(plan, variant, pairs=augmented)
        runner.run(chosen, ["ctr_model"])
        measured = load("msd_models.distillation_curve:measure_point")(
            chosen.dataset("student"), chosen.dataset("ctr_model")
        )
        points.append({"share": variant.share, "augmented": variant.augmented, **measured})
    facts = {"source": plan.source.name, "points": points}
    write_atomically(folder / "curve.json", json.dumps(facts, indent=1).encode())
    lines: list[str] = load("msd_models.distillation_curve:table_lines")(points)
    write_atomically(folder / "curve.txt", ("\n".join(lines) + "\n").encode())
    load("msd_models.distillation_curve:draw_curve")(folder, points)
    note(f"curve: {folder / 'curve.png'}")
    return lines


def variant_plan(plan: Plan, variant: Variant, *, pairs: bool) -> Plan:
    """The same plan for one student: its share, its augmentation, and no more of the flow than the AUC needs.

    Args:
        plan: of the call.
        variant: the point.
        pairs: the plain student has no augmentation at all, so that the pair shows what it brings; else the plan's.
    """
    settings = dict(plan.settings)
    student = replace(settings["student"], train_share=variant.share)
    if pairs:
        shuffled, substituted = student.shuffle_phrases, student.substitute_words
        student = replace(
            student,
            shuffle_phrases=max(shuffled, 1) if variant.augmented else 0,
            substitute_words=max(substituted, 1) if variant.augmented else 0,
        )
    settings["student"] = student
    settings["publication"] = replace(settings["publication"], online=False)
    # A point is about distillation: its arms read the student as it is, so it need not be tuned by clicks.
    settings["tuned_student"] = replace(settings["tuned_student"], max_steps=0)
    settings["ctr_model"] = replace(settings["ctr_model"], arms=ARMS)
    return runner.make_plan(plan.workspace, plan.source, settings)


def _variants(shares: Iterable[float], *, augmented: bool) -> Iterator[Variant]:
    for share in shares:
        yield Variant(share=share, augmented=False)
        if augmented:
            yield Variant(share=share, augmented=True)
