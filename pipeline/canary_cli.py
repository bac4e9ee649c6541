"""`msd canary`: whether readers still get what was published; exit code 1 where a bound is broken."""

import json
import math
from pathlib import Path
from typing import Annotated

import typer

from pipeline import canary, metrics
from pipeline.call import DateOption, DebugOption, PresetOption, SetOption, SourceOption, WorkOption, plan_of
from pipeline.checks import broken, joined, lines
from pipeline.errors import StageError, UsageError
from pipeline.partitions import opened_days
from pipeline.storage import Workspace

MAX_AGE_HOURS = 48.0
MIN_COVERAGE = 0.9
ROWS = 1000
REPAIRS = {
    "point readers at it again: msd publish --activate this": ("pointer",),
    "write it anew: msd publish --again": ("equality", "expiry"),
    "publish a newer day: msd publish --date …": ("age", "data_age", "item_coverage", "user_coverage"),
    "see which program writes to that server": ("unknown_keys",),
    "see what changed the texts or the student: msd show student": ("hit_rate",),
}
"""What mends a broken bound."""


def examine(
    max_age_hours: Annotated[float, typer.Option("--max-age-hours", help="Of the active generation.")] = MAX_AGE_HOURS,
    max_data_age_hours: Annotated[
        float | None,
        typer.Option(
            "--max-data-age-hours",
            help="From the newest value online to now, or to the end of --date. Default: with --date as"
            " --max-age-hours, else not judged.",
            show_default=False,
        ),
    ] = None,
    min_coverage: Annotated[
        float, typer.Option("--min-coverage", help="Share of the catalogue with a vector online.")
    ] = MIN_COVERAGE,
    min_user_coverage: Annotated[
        float, typer.Option("--min-user-coverage", help="Share of users with a history that have a vector online.")
    ] = 0.0,
    min_hit_rate: Annotated[
        float, typer.Option("--min-hit-rate", help="Share of texts whose vectors were kept from before.")
    ] = 0.0,
    rows: Annotated[int, typer.Option("--rows", min=1, help="Items, and users, to compare.")] = ROWS,
    scan: Annotated[
        bool, typer.Option("--scan/--no-scan", help="Look for keys online that the offline files lack.")
    ] = True,
    json_: Annotated[bool, typer.Option("--json", help="End with the figures as one line of JSON on stdout.")] = False,
    source: SourceOption = None,
    preset: PresetOption = None,
    set_: SetOption = None,
    date: DateOption = None,
    work: WorkOption = Path("work"),
    debug: DebugOption = False,
) -> None:
    """Compares what readers get with the offline files, and its age, coverage and hit rate with their bounds.

    Exit code 1 names each bound that is broken, and what mends it.
    """
    for name, share in (("coverage", min_coverage), ("user-coverage", min_user_coverage), ("hit-rate", min_hit_rate)):
        if not 0 <= share <= 1:
            raise UsageError(f"--min-{name} {share}: a share lies between 0 and 1")
    for name, hours in (("age", max_age_hours), ("data-age", max_data_age_hours)):
        if hours is not None and (math.isnan(hours) or hours < 0):
            raise UsageError(f"--max-{name}-hours {hours}: give 0 or more")
    bounds = canary.Bounds(
        max_age_hours=max_age_hours,
        max_data_age_hours=max_data_age_hours,
        min_coverage=min_coverage,
        min_user_coverage=min_user_coverage,
        min_hit_rate=min_hit_rate,
        rows=rows,
        scans=scan,
    )
    plan = plan_of(work, source, preset, set_, day_meant(work, source, date))
    found = canary.examine(plan, bounds)
    metrics.tell_canary(plan, is_within_bounds=found["is_within_bounds"], **canary.figures(found))
    if json_:
        typer.echo(json.dumps(found))
    else:
        for line in lines(found["checks"]):
            typer.echo(line)
    if failed := broken(found["checks"]):
        repairs = "; ".join(repair for repair, names in REPAIRS.items() if not failed.keys().isdisjoint(names))
        raise StageError(f"the active generation {found['generation']} is out of bounds: {joined(failed)}; {repairs}")


def day_meant(work: Path, source: str | None, date: str | None) -> str | None:
    """The day of a call without one: the latest, in a work folder that knows days and no other call."""
    if date is not None or source is not None or not work.is_dir():
        return date
    workspace = Workspace(work)
    days = opened_days(workspace)
    return days[-1] if days and not workspace.remembered() else None
