"""The `msd` command."""

from pathlib import Path
from typing import Annotated

import typer

from pipeline import runner, settings
from pipeline.source import load_source
from pipeline.storage import Workspace

app = typer.Typer(add_completion=False)


@app.command()
def run(
    stages: list[str],
    source: Annotated[str, typer.Option()] = "movielens-100k",
    preset: Annotated[str, typer.Option()] = "small",
    set_: Annotated[list[str], typer.Option("--set")] = [],
    work: Annotated[Path, typer.Option()] = Path("work"),
) -> None:
    plan = runner.make_plan(Workspace(work), load_source(source), settings.resolve(preset, set_))
    runner.run(plan, stages)


@app.callback()
def callback() -> None:
    pass


def main() -> None:
    app()
