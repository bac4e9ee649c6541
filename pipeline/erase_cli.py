"""`msd erase user ID`: the call of `pipeline.erasure`."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from pipeline.call import DebugOption, PresetOption, SetOption, SourceOption, WorkOption, plan_of
from pipeline.erasure import Erasure, Place, Report
from pipeline.errors import StageError, UsageError
from pipeline.progress import note

app = typer.Typer(no_args_is_help=True, help="Takes a person out of everything, and proves it.")


@app.callback()
def erase() -> None:
    """Takes a person out of everything, and proves it."""


@app.command()
def user(
    user_id: Annotated[str, typer.Argument(metavar="ID", help="As the source has it.", show_default=False)],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what there is, change nothing.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask before erasing.")] = False,
    keep_raw: Annotated[bool, typer.Option("--keep-raw", help="Leave the source's own files as they are.")] = False,
    models: Annotated[
        bool, typer.Option("--models", help="Delete the models that were trained with the person's rows, too.")
    ] = False,
    source: SourceOption = None,
    preset: PresetOption = None,
    set_: SetOption = None,
    work: WorkOption = Path("work"),
    debug: DebugOption = False,
) -> None:
    """Removes a person from the source's files, every dataset, the stores and Redis; searches what is left.

    A killed erasure goes on where it was; afterwards the person's rows are left out of every export to come.

    Weights that were trained with the person's rows are not unlearned: they are named, and --models deletes them.
    """
    wanted = user_id.strip(" ")
    if not wanted:
        raise UsageError("the id is empty; name a user, for instance: msd erase user 13")
    erasure = Erasure(plan_of(work, source, preset, set_), wanted, keep_raw=keep_raw, models=models)
    before = erasure.survey()
    if dry_run:
        _print(before, found_only=True)
        note("nothing was changed: --dry-run")
        return
    if not yes:
        _confirm(before)
    after = erasure.run(before)
    _print(after, found_only=False)
    _conclude(erasure, after)


def _confirm(before: Report) -> None:
    _print(before, found_only=True)
    if not sys.stdin.isatty():
        raise UsageError("erasing cannot be undone; say --yes where nobody can be asked, or --dry-run to look only")
    if not typer.confirm("Erase all of this? It cannot be undone", default=False, err=True):
        raise UsageError("nothing was erased")


def _print(report: Report, *, found_only: bool) -> None:
    console = Console(highlight=False)
    table = Table(box=None)
    columns = (
        ["place", "found"] + ([] if found_only else ["left"]) + ["what is done" if found_only else "what was done"]
    )
    for column in columns:
        table.add_column(column, justify="right" if column in ("found", "left") else "left")
    for place in report.places:
        table.add_row(*_row(place, found_only=found_only))
    if report.places:
        console.print(table)
    else:
        console.print("not found anywhere")
    _print_lines(console, "stays", report.kept)
    _print_lines(console, "could not be looked into", report.missed)
    _print_lines(console, "trained with the person's rows; weights are not unlearned", report.models)


def _row(place: Place, *, found_only: bool) -> Sequence[str]:
    left = () if found_only else (f"{place.left:,}",)
    return (place.name, f"{place.found:,}", *left, place.action)


def _print_lines(console: Console, heading: str, lines: Sequence[str]) -> None:
    for line in lines:
        console.print(f"{heading}: {line}", markup=False)


def _conclude(erasure: Erasure, report: Report) -> None:
    if not report.is_clean:
        raise StageError(
            f"something of the person is left, or could not be looked into: see the table, and {erasure.receipt};"
            " mend the cause, then run the same msd erase again"
        )
    note("nothing is left; the person is on the list of erased people, whose rows no run takes in again")
    note(f"receipt: {erasure.receipt}; datasets downstream are made anew by the next msd run")
