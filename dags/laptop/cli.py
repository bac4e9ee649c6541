"""`python -m dags.laptop`: what `make airflow`, `make airflow-backfill` and `make airflow-stop` run."""

import json
import os
import sys
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

import typer

import dags
from dags.chain.deployment import read_deployment
from dags.chain.names import BY_HAND, CHAIN, DAILY
from dags.laptop.bring_up import bring_up, take_down, wait_for_dags
from dags.laptop.chain_run import ChainRun, backfill, check_params, day, follow, trigger
from dags.laptop.home import Home, by_hand, find_home
from dags.laptop.rest import Airflow
from dags.laptop.services import SERVICES, members, running
from dags.laptop.table import print_results, shown
from pipeline import settings
from pipeline.call import absolute
from pipeline.errors import MsdError, UsageError
from pipeline.progress import note
from pipeline.source import load_source

LOG_LINES = 12
OPTIONS = {"source": "--source", "preset": "--preset", "overrides": "--set"}
"""Fields of the head's form that have an option here."""
DAGS_FOLDER = Path(dags.__path__[0])

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="A whole Airflow on this machine: api-server, scheduler, dag-processor and triggerer on 127.0.0.1.\n\n"
    "Start with [bold]run[/bold]: it brings Airflow up, runs the chain of DAGs for one date and leaves the UI open;"
    " [bold]stop[/bold] ends everything.",
)
WorkOption = Annotated[Path, typer.Option("--work", help="The folder datasets are kept in.", envvar="MSD_WORK")]
DagsOption = Annotated[Path, typer.Option("--dags", help="A folder of DAG files.", show_default="the project's own")]
PortOption = Annotated[
    int | None, typer.Option("--port", min=1, max=65535, help="Of the UI.", show_default="8080, else any free one")
]
SourceOption = Annotated[
    str | None, typer.Option("--source", help="As in msd run; kept with the date.", show_default="the DAG's")
]
PresetOption = Annotated[str | None, typer.Option("--preset", help="As in msd run.", show_default="the DAG's")]
SetOption = Annotated[list[str] | None, typer.Option("--set", help="stage.key=value, as often as needed.")]
ParamOption = Annotated[
    list[str] | None,
    typer.Option("--param", metavar="NAME=JSON", help="Any other parameter of the DAG's form, as often as needed."),
]


@app.command()
def up(work: WorkOption = Path("work"), dags_: DagsOption = DAGS_FOLDER, port: PortOption = None) -> None:
    """Brings Airflow up, or finds the one that runs; prints the address of its UI."""
    _say_open(bring_up(work, dags_, port))


@app.command()
def run(
    date: Annotated[
        str | None,
        typer.Option("--date", help="The day whose end the datasets stand for.", show_default="yesterday, UTC"),
    ] = None,
    source: SourceOption = None,
    preset: PresetOption = None,
    set_: SetOption = None,
    param: ParamOption = None,
    work: WorkOption = Path("work"),
) -> None:
    """Runs the whole chain for one date and waits; exit code 1 names the task that failed and shows its log."""
    key = day(date or (datetime.now(UTC) - timedelta(days=1)).date().isoformat()).isoformat()
    chosen = params(source, preset, set_, param)
    check_opens(chosen, [key])
    home = bring_up(work, _dags_of(work))
    wait_for_dags(home, (*CHAIN, *BY_HAND, *DAILY))
    airflow = Airflow(home.url)
    check_params(airflow, chosen)
    _say_open(home)
    asked = trigger(airflow, key, chosen)
    _watch(home, [key], asked)


@app.command(name="backfill")
def backfill_(
    first: Annotated[str, typer.Option("--from", help="The first day, YYYY-MM-DD.")],
    last: Annotated[str, typer.Option("--to", help="The last day.")],
    source: SourceOption = None,
    preset: PresetOption = None,
    set_: SetOption = None,
    param: ParamOption = None,
    work: WorkOption = Path("work"),
) -> None:
    """Runs the chain for each day of a range, by Airflow's own backfill of its head, and waits for all of it."""
    days = [day(first).isoformat(), day(last).isoformat()]
    chosen = params(source, preset, set_, param)
    check_opens(chosen, days)
    home = bring_up(work, _dags_of(work))
    wait_for_dags(home, (*CHAIN, *BY_HAND, *DAILY))
    airflow = Airflow(home.url)
    check_params(airflow, chosen)
    _say_open(home)
    keys, asked = backfill(airflow, first, last, chosen)
    _watch(home, keys, asked)


@app.command()
def stop(work: WorkOption = Path("work")) -> None:
    """Ends Airflow and every task under way; a stage that is ended goes on where it was when it is tried again."""
    ended = take_down(work)
    note(f"ended {ended} processes" if ended else "no Airflow runs for this work folder")


@app.command()
def status(work: WorkOption = Path("work")) -> None:
    """Says what runs, where, and how to speak to it by hand; exit code 1 where something is down."""
    home = find_home(work)
    if home is None:
        raise UsageError(f"no Airflow was ever brought up for {work}; start one: make airflow WORK={work}")
    states = {name: running(home, name) for name in SERVICES}
    for name, process in states.items():
        note(f"{name}: {'process ' + str(process.pid) if process else 'down'}")
    note(f"processes in all: {len(members(home))}")
    if not all(states.values()):
        raise typer.Exit(1)
    _say_open(home)


def main(arguments: list[str] | None = None) -> None:
    """Runs the command and turns failures into one sentence on stderr and an exit code."""
    try:
        app(sys.argv[1:] if arguments is None else arguments, standalone_mode=True)
    except MsdError as error:
        note(f"airflow: {error}")
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        note("airflow: left alone; what was started goes on, and make airflow-stop ends it")
        sys.exit(130)


def _dags_of(work: Path) -> Path:
    """Those of the Airflow that runs, whatever they are; else the project's own."""
    home = find_home(work)
    return home.dags if home is not None and running(home, "scheduler") else DAGS_FOLDER


def params(source: str | None, preset: str | None, set_: list[str] | None, param: list[str] | None) -> dict[str, Any]:
    """What the options stand for in the head's form: only what was chosen, the rest is the DAG's to say.

    Raises:
        UsageError: a parameter is not written NAME=VALUE, or has an option of its own.
    """
    chosen: dict[str, Any] = {}
    for text in param or []:
        name, equals, value = text.partition("=")
        if not (name and equals):
            raise UsageError(f"--param {text}: write NAME=VALUE, for instance --param again=true")
        if name in OPTIONS:
            raise UsageError(f"--param {text}: use {OPTIONS[name]}, whose value is looked at before anything starts")
        try:
            chosen[name] = json.loads(value)
        except json.JSONDecodeError:
            chosen[name] = value
    named = {
        "source": None if source is None else absolute(source),
        "preset": None if preset is None else absolute(preset),
        "overrides": set_,
    }
    return chosen | {name: value for name, value in named.items() if value is not None}


def check_opens(chosen: Mapping[str, Any], days: Iterable[str]) -> None:
    """What the chain's first task would refuse, said before an Airflow is started for it.

    Raises:
        UsageError: there is no such source, preset or setting, or a file of them is wrong.
    """
    where = read_deployment(os.environ)
    settings.resolve(chosen.get("preset", where.preset), chosen.get("overrides", ()))
    for each in days:
        load_source(chosen.get("source", where.source), each)


def _watch(home: Home, keys: list[str], asked: datetime) -> None:
    airflow = Airflow(home.url)
    with shown() as show:
        runs = follow(airflow, keys, asked, show=show)
    print_results(runs)
    for run_ in runs:
        if run_.is_green:
            note(f"{run_.key}: report: {home.work / 'report' / run_.key / 'report.html'}")
        else:
            _explain(home, airflow, run_)
    _say_address(home)
    if not all(run_.is_green for run_ in runs):
        raise typer.Exit(1)


def _explain(home: Home, airflow: Airflow, chain_run: ChainRun) -> None:
    if chain_run.trouble:
        note(f"{chain_run.key}: {chain_run.trouble}")
    for hop in chain_run.hops:
        if hop.run is None or hop.state != "failed":
            continue
        run_id = hop.run["dag_run_id"]
        for task in hop.failed_tasks:
            note(f"{chain_run.key}: {hop.dag}.{task['task_id']} failed at try {task['try_number']}; its last lines:")
            for line in airflow.log(hop.dag, run_id, task)[-LOG_LINES:]:
                note(f"  {line}")
        note(
            f"next: mend it, then clear the failed task at {home.url}/dags/{hop.dag}/runs/{run_id}; what was made is"
            " not made again, and the chain goes on from there"
        )


def _say_address(home: Home) -> None:
    note(f"Airflow's UI: {home.url} (open until: make airflow-stop)")


def _say_open(home: Home) -> None:
    _say_address(home)
    note(f"by hand: {by_hand(home)} dags list")
