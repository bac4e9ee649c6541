"""Geometry of the report's pictures of teacher_quality: the threshold's sweep, the redundancy probe, the coverage.

As in `charts`: numbers in, pixels out, drawn as inline SVG by `report_template/quality.html.jinja`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from msd_models.charts import Scale

WIDTH, LEFT, RIGHT = 760, 170, 600
SWEEP_HEIGHT, SWEEP_LEFT = 250, 46
ROW, TOP, AXIS = 26, 12, 44
SWEPT = ("precision", "recall", "f1")
SHOWN_STRATA = 16
"""Bars of a level; smaller strata are counted in the note below."""


def sweep(tau: Mapping[str, Any]) -> dict[str, Any] | None:
    """Precision, recall and F1 over the thresholds tried, with a mark at τ; None where a setting gave τ."""
    points = tau["sweep"]
    if not points:
        return None
    across = Scale(low=0, high=1, start=SWEEP_LEFT, end=WIDTH - 130)
    upwards = Scale(low=0, high=1, start=SWEEP_HEIGHT - AXIS, end=10)
    lines = []
    for number, name in enumerate(SWEPT):
        drawn = [(across(point["threshold"]), upwards(point[name])) for point in points]
        path = " ".join(f"{'L' if place else 'M'}{x} {y}" for place, (x, y) in enumerate(drawn))
        lines.append({"name": "F1" if name == "f1" else name, "number": number, "path": path})
    return {
        "width": WIDTH,
        "height": SWEEP_HEIGHT,
        "left": SWEEP_LEFT,
        "right": WIDTH - 130,
        "bottom": SWEEP_HEIGHT - AXIS,
        "tau": across(tau["value"]),
        "across": [{"x": across(value), "value": value} for value in across.ticks()],
        "upwards": [{"y": upwards(value), "value": value} for value in upwards.ticks()],
        "lines": lines,
    }


def redundancy(probes: Mapping[str, Mapping[str, Any]]) -> dict[str, Any] | None:
    """R² of each level and list with its interval, the placebo's mark beside it; None without a probe."""
    found = [
        (f"{level}, {listed}", probe) for level, lists in probes.items() for listed, probe in lists.items() if probe
    ]
    if not found:
        return None
    ends = [value for _, probe in found for value in (*probe["interval"], probe["placebo_r2"])]
    scale = Scale(low=min(*ends, 0.0) - 0.02, high=max(*ends, 0.2) + 0.02, start=LEFT, end=RIGHT)
    rows = [
        {
            "name": name,
            "y": TOP + ROW * number + ROW / 2,
            "low": scale(probe["interval"][0]),
            "high": scale(probe["interval"][1]),
            "at": scale(probe["r2"]),
            "placebo": scale(probe["placebo_r2"]),
            **{key: probe[key] for key in ("r2", "interval", "rows")},
        }
        for number, (name, probe) in enumerate(found)
    ]
    bottom = TOP + ROW * len(rows)
    return {
        "width": WIDTH,
        "height": bottom + AXIS,
        "left": LEFT,
        "right": RIGHT,
        "bottom": bottom,
        "zero": scale(0.0),
        "ticks": [{"x": scale(value), "value": value} for value in scale.ticks()],
        "rows": rows,
    }


def coverage(strata: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Two bars a stratum, its share of the catalogue above its share of the sample, the largest strata first."""
    shown = strata[:SHOWN_STRATA]
    high = max((max(stratum["share"], stratum["catalogue_share"]) for stratum in shown), default=1.0) or 1.0
    scale = Scale(low=0, high=high * 1.05, start=LEFT, end=RIGHT)
    rows = [
        {
            "name": stratum["stratum"],
            "y": TOP + ROW * number,
            "catalogue": scale(stratum["catalogue_share"]),
            "sample": scale(stratum["share"]),
            **{key: stratum[key] for key in ("rows", "share", "catalogue_share", "catalogue_rows")},
        }
        for number, stratum in enumerate(shown)
    ]
    bottom = TOP + ROW * len(rows)
    return {
        "width": WIDTH,
        "height": bottom + 8,
        "left": LEFT,
        "right": RIGHT,
        "rows": rows,
        "left_out": len(strata) - len(shown),
    }
