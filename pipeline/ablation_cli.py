"""`msd ablate`: the call of `pipeline.ablation`."""

from pathlib import Path
from typing import Annotated

import typer

from pipeline import ablation
from pipeline.call import DebugOption, PresetOption, SetOption, SourceOption, WorkOption, plan_of

app = typer.Typer()


@app.command()
def ablate(
    tables: Annotated[
        str, typer.Option("--tables", help="2: every model beside the others; 3: what each part of MSD is worth.")
    ] = ablation.DEFAULT_TABLES,
    seeds: Annotated[
        str,
        typer.Option("--seeds", help="Training seeds, such as 1,2,3. Default: the preset's.", show_default=False),
    ] = "",
    source: SourceOption = None,
    preset: PresetOption = None,
    set_: SetOption = None,
    work: WorkOption = Path("work"),
    debug: DebugOption = False,
) -> None:
    """Trains the arms of the paper's Tables 2 and 3 and prints them with paired intervals over users and seeds.

    Writes ablation/ in the work folder: the tables as JSON, Markdown and text, and a forest plot.

    Everything above the click models is shared with msd run; stopped anywhere, the same command goes on where it was.
    """
    chosen = ablation.parse_tables(tables)
    wanted = ablation.parse_numbers(seeds, "--seeds", "1,2,3") if seeds else ()
    for line in ablation.ablate(plan_of(work, source, preset, set_), chosen, wanted):
        typer.echo(line)
