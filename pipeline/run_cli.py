"""`msd run`, `msd demo` and `msd open`: makes datasets, and says what a day's key means."""

import json
import sys
import time
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from pipeline import forecast, machine, results, runner, view
from pipeline.call import (
    DateOption,
    DebugOption,
    PresetOption,
    SetOption,
    SourceOption,
    WorkOption,
    open_day,
    plan_of,
    remembered_plan,
)
from pipeline.errors import UsageError
from pipeline.partitions import is_open, make_knowledge
from pipeline.progress import note
from pipeline.runner import Plan
from pipeline.stages import BY_NAME, STAGES
from pipeline.storage import write_atomically

JsonOption = Annotated[
    bool, typer.Option("--json", help="End with one line of JSON on stdout: the datasets and their counts.")
]
Stages = Annotated[
    list[str] | None, typer.Argument(help="Datasets to make, or `all`: " + ", ".join(s.name for s in STAGES))
]


def demo(work: WorkOption = Path("work"), debug: DebugOption = False) -> None:
    """The whole flow on MovieLens-100K with every real component, in minutes; ends with a results table.

    Says at the start how long it will take on this machine. It has the preset `demo`, sized to show every part: the
    README's results come from the preset `small`: msd run report --source movielens-100k --preset small.
    """
    started = time.monotonic()
    with remembered_plan(work, forecast.SOURCE, forecast.PRESET, []) as plan:
        pending = runner.missing_stages(plan, ["report"])
        if pending:
            note("measuring this machine, a few seconds")
            forecast.announce(pending, machine.measure())
        made = runner.run(plan, ["report"])
    _finish(plan, made, started)


def run(
    stages: Stages = None,
    source: SourceOption = None,
    preset: PresetOption = None,
    set_: SetOption = None,
    slice_: Annotated[
        str | None,
        typer.Option(
            "--slice",
            metavar="K/N",
            help="Make only the K-th of N parts of one row-wise dataset, beside the others; the same command without"
            " --slice then commits it.",
            show_default=False,
        ),
    ] = None,
    date: DateOption = None,
    only: Annotated[
        bool, typer.Option("--only", help="Fail where an input is missing, rather than make it; for schedulers.")
    ] = False,
    json_: JsonOption = False,
    work: WorkOption = Path("work"),
    debug: DebugOption = False,
) -> None:
    """Makes the named datasets and whatever they need; skips what is committed; a killed run goes on where it was.

    With --date a day that is not open yet is opened, unless --only is given too.
    """
    started = time.monotonic()
    names = stage_names(stages or [])
    if date is not None and not only and not is_open(work, date):
        open_day(work, date, {"source": source, "preset": preset, "overrides": set_, "refresh_days": 1}, again=False)
    dated = nullcontext(plan_of(work, source, preset, set_, date)) if date is not None else None
    with dated or remembered_plan(work, source, preset, set_) as plan:
        if slice_ is not None:
            runner.run_slice(plan, _one_stage(names), *_slice_numbers(slice_))
            print_json(json_, view.slice_facts(plan, names[0], slice_))
            return
        if "all" in (stages or []):
            names = [name for name in names if name not in plan.refused or plan.dataset(name).manifest is not None]
        made = make_knowledge(plan, names) if date is not None and not only else []
        made += runner.run(plan, names, only=only)
    if "report" in names:
        _finish(plan, made, started)
    else:
        _say_made(made, started)
    print_json(json_, view.facts(plan, names))


def open_(
    date: Annotated[str, typer.Option("--date", metavar="YYYY-MM-DD", help="The UTC day.")],
    source: SourceOption = None,
    preset: PresetOption = None,
    set_: SetOption = None,
    refresh_days: Annotated[
        int,
        typer.Option("--refresh-days", help="Go on with an earlier day's teacher and student until they are so old."),
    ] = 1,
    again: Annotated[
        bool, typer.Option("--again", help="The files or the options changed: let the day mean what they are now.")
    ] = False,
    work: WorkOption = Path("work"),
    debug: DebugOption = False,
) -> None:
    """Records what a day's key means: source, settings and the fingerprint of every dataset as of its end.

    Every later command with this --date means the same datasets, whatever happens to files and settings meanwhile; a
    day that is open already stays as it is. Prints the record as one line of JSON.
    """
    call = {"source": source, "preset": preset, "overrides": set_, "refresh_days": refresh_days}
    typer.echo(json.dumps(asdict(open_day(work, date, call, again=again))))


def stage_names(names: list[str]) -> list[str]:
    """The stages that a call names, or all.

    Raises:
        UsageError: there are none, or one is unknown.
    """
    if not names:
        raise UsageError("name the datasets to make, for instance: msd run report; msd list shows them all")
    if "all" in names:
        return [stage.name for stage in STAGES]
    for name in names:
        if name not in BY_NAME:
            raise UsageError(f"there is no dataset '{name}'; there are {', '.join(BY_NAME)}")
    return names


def print_json(wanted: bool, facts: Mapping[str, Any]) -> None:
    """Ends the output with facts for a program, where it asked for them; what people read has gone to stderr."""
    if wanted:
        sys.stderr.flush()
        typer.echo(json.dumps(facts))


def _one_stage(names: list[str]) -> str:
    if len(names) != 1:
        raise UsageError(
            "--slice makes a part of one dataset; name one, for instance: msd run teacher_outputs --slice 1/4"
        )
    return names[0]


def _slice_numbers(text: str) -> tuple[int, int]:
    number, slash, of = text.partition("/")
    if not (slash and number.isdecimal() and of.isdecimal()):
        raise UsageError(f"--slice {text}: write K/N, for instance 1/4 for the first of four parts")
    return int(number), int(of)


def _finish(plan: Plan, made: list[str], started: float) -> None:
    folder = plan.dataset("report").folder
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    pages = folder.parent / plan.date
    for place in {folder.parent, pages}:
        for name in ("report.json", "report.html"):
            # Going back to a report that is committed already must bring its pages forward too.
            write_atomically(place / name, (folder / name).read_bytes())
    results.print_results(report)
    _say_made(made, started)
    note(f"digest of the results: {report['digest']}")
    note(f"report: {pages / 'report.html'}")


def _say_made(made: list[str], started: float) -> None:
    seconds = time.monotonic() - started
    done = f"made {len(made)} datasets" if made else "everything was there already, nothing recomputed"
    note(f"{done} in {seconds:.1f} s")
