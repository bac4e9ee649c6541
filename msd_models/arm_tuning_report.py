"""What a tuning found: a table for a terminal, a file of arms to train with, and a picture of the search."""

import json
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from msd_models.pictures import drawing_board, save_picture

Tables = dict[str, dict[str, Any]]


@dataclass(frozen=True, kw_only=True)
class TunedTrial:
    """One setting that was tried."""

    value: float | None
    """Mean valid AUC; None where it was cut short."""
    settings: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class TunedArm:
    """An arm's trials, the first being the arm as it stands."""

    name: str
    trials: tuple[TunedTrial, ...]

    @property
    def best(self) -> TunedTrial | None:
        """The trial of the highest valid AUC, the earliest of equals; None before the first has ended."""
        told = [trial for trial in self.trials if trial.value is not None]
        return max(told, key=lambda trial: trial.value or 0.0) if told else None

    @property
    def num_cut(self) -> int:
        """Trials the pruner ended."""
        return sum(trial.value is None for trial in self.trials)


def table_lines(tuned: Sequence[TunedArm]) -> list[str]:
    """Default and best valid AUC of each arm over the same number of trials, and the best settings."""
    header = ("arm", "trials", "cut short", "default", "best", "Δ")
    widths = (18, 8, 11, 10, 10, 10)
    lines = [_row(header, widths) + "  best settings (valid AUC; test is not read)"]
    for arm in tuned:
        best, default = arm.best, arm.trials[0].value if arm.trials else None
        if best is None or best.value is None or default is None:
            lines.append(_row((arm.name, "0", "", "", "", ""), widths))
            continue
        numbers = (f"{default:.4f}", f"{best.value:.4f}", f"{best.value - default:+.4f}")
        told = "as it stands" if best is arm.trials[0] else _inline(best.settings, digits=3)
        cells = (arm.name, str(len(arm.trials)), str(arm.num_cut), *numbers)
        lines.append(f"{_row(cells, widths)}  {told}")
    return lines


def tuned_arms_file(tuned: Sequence[TunedArm], arms_file: str) -> str:
    """TOML for ctr_model.arms_file: the best settings, over what the file in use says already.

    Args:
        tuned: the arms.
        arms_file: the file the arms were read with; empty: the built-in ones alone.
    """
    tables: Tables = tomllib.loads(Path(arms_file).read_text(encoding="utf-8")) if arms_file else {}
    lines = ["# Written by msd tune: the settings of the highest valid AUC of each arm."]
    for arm in tuned:
        if arm.best is None or arm.best is arm.trials[0]:
            continue
        table = tables.setdefault(arm.name, {})
        table["settings"] = {**table.get("settings", {}), **arm.best.settings}
        lines.append(f"# {arm.name}: {arm.best.value:.6f}, the best of {len(arm.trials)} trials")
    for name, table in tables.items():
        plain = {key: value for key, value in table.items() if not isinstance(value, dict)}
        lines += ["", f"[{name}]", *(f"{key} = {_value(value)}" for key, value in plain.items())]
        for key in table.keys() - plain.keys():
            lines += ["", f"[{name}.{key}]", *(f"{one} = {_value(value)}" for one, value in table[key].items())]
    return "\n".join(lines) + "\n"


def draw_history(folder: Path, tuned: Sequence[TunedArm]) -> None:
    """Writes history.png and .svg: every trial's valid AUC, the best so far, and the first one's as a dashed line."""
    figure, axes = drawing_board().subplots(figsize=(8, 4.5), layout="constrained")
    for number, arm in enumerate(tuned):
        values = np.array([np.nan if trial.value is None else trial.value for trial in arm.trials])
        if not len(values):
            continue
        colour = f"C{number % 10}"
        axes.plot(np.arange(len(values)), values, "o", color=colour, alpha=0.4, markersize=4)
        best = np.maximum.accumulate(np.where(np.isnan(values), -np.inf, values))
        axes.step(np.arange(len(values)), best, where="post", color=colour, label=arm.name)
        axes.axhline(values[0], color=colour, linestyle="--", linewidth=0.8)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set_xlabel("trial (0 is the arm as it stands, dashed)")
    axes.set_ylabel("valid AUC, mean over seeds")
    axes.grid(visible=True, alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    if any(arm.trials for arm in tuned):
        axes.legend(frameon=False)
    save_picture(figure, folder, "history")


def _row(cells: Sequence[str], widths: Sequence[int]) -> str:
    first, *rest = zip(cells, widths, strict=True)
    return first[0].ljust(first[1]) + "".join(text.rjust(width) for text, width in rest)


def _inline(settings: Mapping[str, Any], digits: int) -> str:
    shown = {
        key: float(f"{value:.{digits}g}") if isinstance(value, float) else value for key, value in settings.items()
    }
    return ", ".join(f"{key} = {_value(value)}" for key, value in shown.items())


def _value(value: Any) -> str:
    """TOML of a text, number, claim, list or inline table; JSON is all of these but the last."""
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {_value(one)}" for key, one in value.items()) + " }"
    return json.dumps(value)
