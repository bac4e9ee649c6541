"""The page: report.html from the report's numbers and `report_template/`, one file that brings everything itself."""

from collections.abc import Mapping
from typing import Any

from msd_models import charts, quality_charts
from pipeline.packaged import packaged

PAGES = "msd_models/report_template"


def render(report: Mapping[str, Any], examples: list[dict[str, Any]]) -> str:
    """The page: no script, no font, no image from elsewhere; every text from the catalogue is escaped."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(packaged(PAGES)),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        number=_number, signed=_signed, whole=_whole, percent=_percent, duration=_duration, bucket=_bucket
    )
    kinds = {arm["name"]: arm["kind"] for arm in report["arms"]}
    return environment.get_template("report.html.jinja").render(
        report=report,
        examples=examples,
        kinds=kinds,
        forest=charts.forest(report["arms"]),
        reliability=charts.reliability(report["reliability"], kinds),
        exposure=charts.exposure(report["exposure"], kinds),
        cold=charts.forest(report["cold"]["arms"]) if report["cold"] else None,
        tuning_chart=charts.tuning(report["tuning"]["curve"]) if report["tuning"] else None,
        **_quality_charts(report["teacher"]["quality"] if report["teacher"] else None),
    )


def _quality_charts(quality: Mapping[str, Any] | None) -> dict[str, Any]:
    """Pictures of the teacher's rows; none where no teacher was asked."""
    if quality is None:
        return {}
    levels = quality["coverage"]["levels"].items()
    return {
        "sweep": quality_charts.sweep(quality["tau"]),
        "probe_chart": quality_charts.redundancy(quality["redundancy"]),
        "bars": {level: quality_charts.coverage(facts["strata"]) for level, facts in levels},
    }


def _number(value: float | None, digits: int = 4) -> str:
    return "–" if value is None else f"{value:.{digits}f}".replace("-", "−")


def _signed(value: float | None, digits: int = 4) -> str:
    return "–" if value is None else f"{value:+.{digits}f}".replace("-", "−")


def _whole(value: float | None) -> str:
    return "–" if value is None else f"{value:,.0f}"


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{value:.0%}".replace("-0%", "0%").replace("-", "−")


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "–"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def _bucket(ends: list[int | None]) -> str:
    low, high = ends
    if low == high:
        return str(low)
    return f"{low}+" if high is None else f"{low}–{high}"
