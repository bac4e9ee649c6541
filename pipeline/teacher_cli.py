"""`msd teacher`: a server for the teacher of a work folder, beside the commands that ask it."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from pipeline.call import DateOption, DebugOption, PresetOption, SetOption, SourceOption, WorkOption, plan_of
from pipeline.job import load
from pipeline.partitions import parse_date
from pipeline.progress import note
from pipeline.storage import Workspace
from pipeline.teacher_address import FOLDER

SERVER = "msd_models.teacher_server"
IDLE_MINUTES, WAIT_SECONDS = 60.0, 900.0

app = typer.Typer(no_args_is_help=True, help="Starts, shows and stops a vLLM server for the teacher, on this machine.")
JsonOption = Annotated[bool, typer.Option("--json", help="Print one line of JSON.")]


@app.command()
def start(
    source: SourceOption = None,
    preset: PresetOption = None,
    set_: SetOption = None,
    date: DateOption = None,
    idle_minutes: Annotated[
        float, typer.Option("--idle-minutes", min=0.1, help="It ends by itself after so long without a question.")
    ] = IDLE_MINUTES,
    wait_seconds: Annotated[
        float, typer.Option("--wait-seconds", min=1, help="How long it may take to load the model.")
    ] = WAIT_SECONDS,
    work: WorkOption = Path("work"),
    debug: DebugOption = False,
) -> None:
    """Brings the server up for teacher_outputs with generator openai, or finds it up; prints its address.

    With --date it stays until every day that started it has stopped it.
    """
    plan = plan_of(work, source, preset, set_, date)
    address = load(f"{SERVER}:start")(
        plan.settings["teacher_outputs"],
        plan.workspace.root / FOLDER,
        plan.date,
        idle_seconds=60 * idle_minutes,
        wait_seconds=wait_seconds,
    )
    note(f"the teacher server answers at {address}")
    typer.echo(address)


@app.command()
def stop(date: DateOption = None, work: WorkOption = Path("work"), debug: DebugOption = False) -> None:
    """Ends the server: for a day, unless other days need it; without --date, whoever needs it."""
    note(load(f"{SERVER}:stop")(_folder(work), "" if date is None else parse_date(date)))


@app.command()
def status(
    date: DateOption = None, json_: JsonOption = False, work: WorkOption = Path("work"), debug: DebugOption = False
) -> None:
    """Says whether the server runs, where, and which model it serves; exit code 1 where it does not answer.

    With --date also where that day has not started it.
    """
    day = "" if date is None else parse_date(date)
    known: dict[str, Any] = load(f"{SERVER}:status")(_folder(work))
    if json_:
        typer.echo(json.dumps(known))
    else:
        typer.echo("\n".join(f"{name}: {_shown(value)}" for name, value in known.items()))
    if known["state"] != "running" or (day and day not in known["users"]):
        raise typer.Exit(1)


def _folder(work: Path) -> Path:
    return (Workspace(work).root if work.is_dir() else work.resolve()) / FOLDER


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {inner}" for name, inner in value.items())
    return ", ".join(value) if isinstance(value, list) else str(value)
