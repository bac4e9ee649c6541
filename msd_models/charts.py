"""Geometry of the report's charts: numbers in, coordinates in pixels out; the template draws them as inline SVG.

Drawn by hand rather than by a plotting library, so that the SVG takes its colours from the page (light, dark, print)
and its text stays text.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

FOREST_BASE = "din"
FOREST_WIDTH, FOREST_LEFT, FOREST_RIGHT, ROW_HEIGHT, AXIS_HEIGHT = 760, 160, 190, 26, 46
SQUARE = 150
EXPOSURE_WIDTH, EXPOSURE_HEIGHT, EXPOSURE_LEFT, EXPOSURE_BOTTOM = 760, 300, 52, 54
TUNING_HEIGHT, NAME_HEIGHT = 240, 14
MAX_LINES = 8
LINE_ORDER = ("msd", "din", "raw_text", "shuffled_vectors", "msd_frozen", "elec_vanilla", "deepfm", "kar")
"""Arms that are drawn first when there are more arms than lines."""


@dataclass(frozen=True, kw_only=True)
class Scale:
    """Maps values to pixels along one axis, linearly."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """The pixel of a value, to a tenth."""
        share = (value - self.low) / (self.high - self.low)
        return round(self.start + share * (self.end - self.start), 1)

    def ticks(self, about: int = 5) -> list[float]:
        """Round values inside the axis, about as many as asked for."""
        step = self._step(about)
        first = math.ceil(self.low / step - 1e-9)
        last = math.floor(self.high / step + 1e-9)
        return [number * step for number in range(first, last + 1)]

    def digits(self, about: int = 5) -> int:
        """Decimals that tell the ticks apart."""
        return max(0, -math.floor(math.log10(self._step(about)) + 1e-9))

    def _step(self, about: int) -> float:
        rough = (self.high - self.low) / about
        magnitude = 10.0 ** math.floor(math.log10(rough))
        return next(m * magnitude for m in (1, 2, 5, 10) if m * magnitude >= rough)


def forest(arms: Sequence[Mapping[str, Any]], base: str = FOREST_BASE) -> dict[str, Any] | None:
    """ΔAUC of every other arm against base with its interval, one row an arm; None where base was not trained."""
    compared = [(arm, arm["delta_auc_vs"][base]) for arm in arms if _is_drawable(arm["delta_auc_vs"].get(base))]
    if not compared:
        return None
    lows, highs = [delta[0] for _, delta in compared], [delta[2] for _, delta in compared]
    pad = max((max(*highs, 0.0) - min(*lows, 0.0)) * 0.06, 1e-4)
    scale = Scale(
        low=min(*lows, 0.0) - pad, high=max(*highs, 0.0) + pad, start=FOREST_LEFT, end=FOREST_WIDTH - FOREST_RIGHT
    )
    rows = [
        {
            "name": arm["name"],
            "kind": arm["kind"],
            "y": 14 + ROW_HEIGHT * number + ROW_HEIGHT / 2,
            "low": scale(delta[0]),
            "mean": scale(delta[1]),
            "high": scale(delta[2]),
            "delta": delta,
        }
        for number, (arm, delta) in enumerate(compared)
    ]
    bottom = 14 + ROW_HEIGHT * len(rows)
    return {
        "base": base,
        "width": FOREST_WIDTH,
        "height": bottom + AXIS_HEIGHT,
        "bottom": bottom,
        "left": FOREST_LEFT,
        "right": FOREST_WIDTH - FOREST_RIGHT,
        "zero": scale(0.0),
        "digits": max(3, scale.digits()),
        "ticks": [{"x": scale(value), "value": value} for value in scale.ticks()],
        "rows": rows,
    }


def reliability(curves: Mapping[str, Mapping[str, Sequence[float]]], kinds: Mapping[str, str]) -> dict[str, Any]:
    """One small square per arm, predicted to the right, observed upwards, all on the same scale."""
    values = [value for curve in curves.values() for side in curve.values() for value in side]
    high = min(1.0, max(values, default=1.0) * 1.08) or 1.0
    across = Scale(low=0, high=high, start=34, end=SQUARE + 34)
    upwards = Scale(low=0, high=high, start=SQUARE + 8, end=8)
    plots = []
    for arm, curve in curves.items():
        points = [(across(p), upwards(o)) for p, o in zip(curve["predicted"], curve["observed"], strict=True)]
        plots.append({"name": arm, "kind": kinds[arm], "points": points, "path": _path(points)})
    return {
        "size": SQUARE,
        "left": 34,
        "top": 8,
        "ticks": [{"x": across(value), "y": upwards(value), "value": value} for value in across.ticks(3)],
        "plots": plots,
    }


def exposure(buckets: Sequence[Mapping[str, Any]], kinds: Mapping[str, str]) -> dict[str, Any] | None:
    """AUC by exposure bucket, one line an arm; None with fewer than two buckets that an AUC is defined in."""
    usable = [bucket for bucket in buckets if all(_is_number(value) for value in bucket["auc"].values())]
    if len(usable) < 2:
        return None
    names = _chosen_lines(list(usable[0]["auc"]), kinds)
    values = [bucket["auc"][name] for bucket in usable for name in names]
    pad = max((max(values) - min(values)) * 0.08, 1e-3)
    right = EXPOSURE_WIDTH - 150
    across = Scale(low=-0.35, high=len(usable) - 0.65, start=EXPOSURE_LEFT, end=right)
    bottom = EXPOSURE_HEIGHT - EXPOSURE_BOTTOM
    upwards = Scale(low=min(values) - pad, high=max(values) + pad, start=bottom, end=10)
    colours = sorted(names, key=lambda name: kinds[name] != "semantic")
    lines = []
    for name in names:
        points = [(across(place), upwards(bucket["auc"][name])) for place, bucket in enumerate(usable)]
        lines.append(
            {
                "name": name,
                "kind": kinds[name],
                "number": colours.index(name),
                "points": points,
                "path": _path(points),
            }
        )
    return {
        "width": EXPOSURE_WIDTH,
        "height": EXPOSURE_HEIGHT,
        "left": EXPOSURE_LEFT,
        "right": right,
        "bottom": bottom,
        "digits": max(2, upwards.digits()),
        "ticks": [{"y": upwards(value), "value": value} for value in upwards.ticks()],
        "buckets": [{"x": across(place), **bucket} for place, bucket in enumerate(usable)],
        "lines": lines,
        "num_left_out": len(kinds) - len(lines),
    }


def tuning(curve: Mapping[str, Mapping[str, Any]]) -> dict[str, Any] | None:
    """Valid AUC by step: the network on the student's vectors as they are, and on those read live through adapters.

    Args:
        curve: `student` and `tuned`, each with `valid_auc` as {step: AUC}; empty where nothing was tuned.

    Returns:
        None where no step was measured.
    """
    measured = {
        name: sorted((int(step), auc) for step, auc in course["valid_auc"].items() if _is_number(auc))
        for name, course in curve.items()
    }
    if not measured or not all(measured.values()):
        return None
    steps = [step for course in measured.values() for step, _ in course]
    aucs = [auc for course in measured.values() for _, auc in course]
    pad = max((max(aucs) - min(aucs)) * 0.08, 1e-3)
    bottom, right = TUNING_HEIGHT - 46, EXPOSURE_WIDTH - 190
    across = Scale(low=0, high=max(*steps, 1), start=EXPOSURE_LEFT, end=right)
    upwards = Scale(low=min(aucs) - pad, high=max(aucs) + pad, start=bottom, end=10)
    names = {"student": ("as it is", "tabular"), "tuned": ("read live", "semantic")}
    lines: list[dict[str, Any]] = []
    for name, (told, kind) in names.items():
        points = [(across(step), upwards(auc)) for step, auc in measured[name]]
        lines.append({"name": told, "kind": kind, "points": points, "path": _path(points), "nudge": 0})
    upper, lower = sorted(lines, key=lambda line: line["points"][-1][1])
    if lower["points"][-1][1] - upper["points"][-1][1] < NAME_HEIGHT:
        upper["nudge"], lower["nudge"] = -NAME_HEIGHT / 2, NAME_HEIGHT / 2
    return {
        "width": EXPOSURE_WIDTH,
        "height": TUNING_HEIGHT,
        "left": EXPOSURE_LEFT,
        "right": right,
        "bottom": bottom,
        "digits": max(2, upwards.digits()),
        "across": [{"x": across(value), "value": value} for value in across.ticks()],
        "upwards": [{"y": upwards(value), "value": value} for value in upwards.ticks()],
        "lines": lines,
    }


def _chosen_lines(names: list[str], kinds: Mapping[str, str]) -> list[str]:
    semantic = [name for name in names if kinds[name] == "semantic"]
    wanted = [*(name for name in LINE_ORDER if name in names), *semantic, *names]
    chosen = list(dict.fromkeys(wanted))[:MAX_LINES]
    return [name for name in names if name in chosen]


def _path(points: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{'M' if not place else 'L'}{x} {y}" for place, (x, y) in enumerate(points))


def _is_drawable(delta: Sequence[float | None] | None) -> bool:
    return delta is not None and all(_is_number(value) for value in delta)


def _is_number(value: float | None) -> bool:
    return value is not None and math.isfinite(value)
