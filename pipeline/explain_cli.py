"""`msd explain item|user ID`: the call of `pipeline.explain`."""

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from pipeline.call import DebugOption, PresetOption, SetOption, SourceOption, WorkOption, plan_of
from pipeline.explain import Fact, explain_item, explain_user

app = typer.Typer(no_args_is_help=True, help="Everything that is known of one item or user.")

Id = Annotated[str, typer.Argument(metavar="ID", help="As the source has it.", show_default=False)]
WriteOption = Annotated[bool, typer.Option("--write", help="Let the student write its phrases; loads the model.")]


@app.command()
def item(
    item_id: Id,
    write: WriteOption = False,
    source: SourceOption = None,
    preset: PresetOption = None,
    set_: SetOption = None,
    work: WorkOption = Path("work"),
    debug: DebugOption = False,
) -> None:
    """Text, teacher's and student's phrases, vector, neighbours, what is online, and what holds it."""
    _print(explain_item(plan_of(work, source, preset, set_), item_id, write=write))


@app.command()
def user(
    user_id: Id,
    write: WriteOption = False,
    source: SourceOption = None,
    preset: PresetOption = None,
    set_: SetOption = None,
    work: WorkOption = Path("work"),
    debug: DebugOption = False,
) -> None:
    """Profile, history, teacher's and student's phrases, vector, nearest items, what is online, and what holds it."""
    _print(explain_user(plan_of(work, source, preset, set_), user_id, write=write))


def _print(facts: Iterable[Fact]) -> None:
    table = Table(box=None, show_header=False, padding=(0, 2, 1, 0))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for heading, told in facts:
        table.add_row(_plain(heading), _plain(told))
    Console(highlight=False).print(table, markup=False)


def _plain(text: str) -> str:
    """Texts of a catalogue are no markup."""
    return text.replace("[", r"\[")
