"""`msd gold`: phrases written by hand, which teacher and student are measured against."""

from pathlib import Path
from typing import Annotated

import typer

from pipeline.call import DebugOption, PresetOption, SetOption, SourceOption, WorkOption, plan_of
from pipeline.job import load

app = typer.Typer(
    no_args_is_help=True,
    help="Phrases written by hand, which teacher and student are measured against.\n\n"
    "1. [bold]msd gold export todo.jsonl --rows 50[/bold] draws texts and what was said of them, without saying by"
    " whom.\n\n"
    "2. People label each candidate explicit, implicit or wrong, and add what is missing; two people, each on a copy,"
    " and [bold]msd gold agree a.jsonl b.jsonl[/bold] says how far they agree.\n\n"
    "3. [bold]msd gold import a.jsonl --to gold.jsonl[/bold] checks every line and writes the gold file, which"
    " [bold]--set student.gold=gold.jsonl --set teacher_quality.gold=gold.jsonl[/bold] measures against.",
)

Labelled = Annotated[Path, typer.Argument(help="A labelled file.", show_default=False)]


@app.command()
def export(
    file: Annotated[Path, typer.Argument(help="The file to write; it must not exist.", show_default=False)],
    rows: Annotated[int, typer.Option("--rows", help="Texts to label.")] = 50,
    seed: Annotated[int, typer.Option("--seed", help="Another seed draws other texts.")] = 0,
    source: SourceOption = None,
    preset: PresetOption = None,
    set_: SetOption = None,
    work: WorkOption = Path("work"),
    debug: DebugOption = False,
) -> None:
    """Writes texts with candidate phrases for people to label; rows held out from the student come first."""
    plan = plan_of(work, source, preset, set_)
    made = (plan.dataset("teacher_outputs"), plan.dataset("student"))
    load("msd_models.annotation:export")(*made, file, rows=rows, seed=seed)


@app.command(name="import")
def import_(
    files: Annotated[list[Path], typer.Argument(help="Labelled files.", show_default=False)],
    to: Annotated[Path, typer.Option("--to", help="The gold file to write; it must not exist.", show_default=False)],
    debug: DebugOption = False,
) -> None:
    """Checks labelled files line by line and makes a gold file of them."""
    load("msd_models.annotation:import_")(files, to)


@app.command()
def agree(first: Labelled, second: Labelled, debug: DebugOption = False) -> None:
    """Prints Cohen's kappa of two annotators with its interval and the table of their labels."""
    for line in load("msd_models.agreement:agree")(first, second).lines():
        typer.echo(line)
