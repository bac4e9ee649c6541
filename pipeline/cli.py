"""The `msd` command: reads the call, finds the plan, hands over to the runner; says errors in one sentence."""

import sys
import traceback
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from pipeline import (
    ablation_cli,
    audit,
    canary_cli,
    curve,
    doctor,
    erase_cli,
    explain_cli,
    gate_cli,
    gold_cli,
    job,
    log_lines,
    publish_cli,
    run_cli,
    teacher_cli,
    tuning_cli,
    view,
)
from pipeline.call import (
    DateOption,
    DebugOption,
    PresetOption,
    SetOption,
    SourceOption,
    WorkOption,
    plan_of,
)
from pipeline.errors import MsdError, UsageError
from pipeline.lifeline import end_with_starter
from pipeline.progress import note
from pipeline.run_cli import JsonOption, Stages, print_json, stage_names
from pipeline.stages import BY_NAME
from pipeline.storage import Workspace

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="Brings what a large language model knows about items and people into click-through-rate models: offline.\n\n"
    "Start with [bold]msd demo[/bold], then [bold]msd run report --source YOURS.toml --preset tiny[/bold].",
)

app.add_typer(gold_cli.app, name="gold")
app.add_typer(erase_cli.app, name="erase")
app.add_typer(explain_cli.app, name="explain")
app.add_typer(ablation_cli.app)
app.add_typer(teacher_cli.app, name="teacher")

app.command()(run_cli.demo)
app.command()(run_cli.run)
app.command(name="open")(run_cli.open_)


@app.command(name="plan")
def plan_(
    stages: Stages = None,
    measure: Annotated[
        bool, typer.Option("--measure", help="Generate a few rows where this machine's pace is unknown; they are kept.")
    ] = False,
    source: SourceOption = None,
    preset: PresetOption = None,
    set_: SetOption = None,
    date: DateOption = None,
    work: WorkOption = Path("work"),
    debug: DebugOption = False,
) -> None:
    """Says what the named datasets would cost in rows, tokens and seconds, before anything is paid for."""
    view.print_estimates(plan_of(work, source, preset, set_, date), stage_names(stages or []), measure=measure)


@app.command(name="curve")
def curve_(
    shares: Annotated[
        str, typer.Option("--shares", help="Shares of the teacher's rows that students are trained on.")
    ] = curve.DEFAULT_SHARES,
    augmented: Annotated[
        bool, typer.Option("--augmented", help="Beside each, a student of shuffled phrases and replaced words.")
    ] = False,
    source: SourceOption = None,
    preset: PresetOption = None,
    set_: SetOption = None,
    work: WorkOption = Path("work"),
    debug: DebugOption = False,
) -> None:
    """Trains students on growing shares of the data and plots their phrase F1 against the AUC their vectors bring.

    Where the AUC still rises with the F1, more or better teacher rows pay; where it is flat, they do not.

    The reference lines say whether it is worth anything: din reads no vectors, raw_text those of a teacherless encoder.

    Each share costs a student and the click models; stopped anywhere, the same command goes on where it was.
    """
    chosen = curve.parse_shares(shares)
    for line in curve.trace(plan_of(work, source, preset, set_), chosen, augmented=augmented):
        typer.echo(line)


@app.command(name="audit")
def audit_(
    source: SourceOption = None,
    preset: PresetOption = None,
    set_: SetOption = None,
    date: DateOption = None,
    work: WorkOption = Path("work"),
    debug: DebugOption = False,
) -> None:
    """Names the examples whose prompt, vector, counts or history know their future; exit code 1 where there is one."""
    plan = plan_of(work, source, preset, set_, date)
    findings = audit.examine(plan)
    for line in audit.lines(findings):
        typer.echo(line)
    audit.check(plan, findings)


@app.command(name="list")
def list_(
    source: SourceOption = None,
    preset: PresetOption = None,
    set_: SetOption = None,
    date: DateOption = None,
    json_: JsonOption = False,
    work: WorkOption = Path("work"),
    debug: DebugOption = False,
) -> None:
    """Shows the stages with their state, rows and seconds."""
    plan = plan_of(work, source, preset, set_, date)
    if json_:
        print_json(json_, view.facts(plan, [name for name in BY_NAME if plan.dataset(name).manifest is not None]))
    else:
        view.list_stages(plan)


@app.command()
def show(
    dataset: Annotated[str, typer.Argument(help="One of " + ", ".join(BY_NAME))],
    rows: Annotated[int, typer.Option("--rows", min=0, help="How many rows to show.")] = 5,
    rejected: Annotated[bool, typer.Option("--rejected", help="Show the rejected rows instead.")] = False,
    source: SourceOption = None,
    preset: PresetOption = None,
    set_: SetOption = None,
    date: DateOption = None,
    work: WorkOption = Path("work"),
    debug: DebugOption = False,
) -> None:
    """Shows a dataset's columns, manifest and first rows."""
    stage_names([dataset])
    view.show_dataset(plan_of(work, source, preset, set_, date).dataset(dataset), rows, rejected=rejected)


@app.command()
def redis(work: WorkOption = Path("work"), debug: DebugOption = False) -> None:
    """Keeps the work folder's own Redis up until Ctrl-C, so that any Feast client can read what was published."""
    job.load("feature_repo.redis_server:serve_redis")(Workspace(work).root)


@app.command(name="doctor")
def doctor_(
    measure: Annotated[
        bool, typer.Option("--measure", help="Measure how fast the machine is, in a few seconds.")
    ] = False,
    work: WorkOption = Path("work"),
    debug: DebugOption = False,
) -> None:
    """Checks the machine (Java, Redis, libraries, models, memory, GPU, speed) and says how to mend what is missing."""
    if not doctor.examine(work, measure=measure):
        raise typer.Exit(1)


app.command(name="tune")(tuning_cli.tune)
app.command(name="publish")(publish_cli.publish)
app.command(name="gate")(gate_cli.judge)
app.command(name="canary")(canary_cli.examine)


def main(arguments: list[str] | None = None) -> None:
    """Runs the command and turns failures into one sentence on stderr and an exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    debug = "--debug" in arguments
    end_with_starter()
    try:
        log_lines.begin(arguments[0] if arguments else "help")
        if log_lines.is_json():
            _run_for_machines(arguments)
        app(arguments, standalone_mode=True)
    except MsdError as error:
        _fail(str(error), error, error.exit_code, debug=debug)
    except KeyboardInterrupt as error:
        _fail("stopped; the same command goes on where it was", error, 130, debug=False)
    except Exception as error:
        first_line = (str(error).strip().splitlines() or ["no message"])[0]
        message = f"unexpected {type(error).__name__}: {first_line}"
        _fail(f"{message}; the same command with --debug shows where", error, 1, debug=debug)


def _run_for_machines(arguments: list[str]) -> NoReturn:
    """The same, but a call that cannot be read is one sentence too, where people get a box with a hint."""
    try:
        exit_code = app(arguments, standalone_mode=False)
    except Exception as error:
        if not hasattr(error, "format_message"):
            raise
        raise UsageError(f"{error.format_message().rstrip('.') or 'a command is wanted'}; see: msd --help") from error
    sys.exit(exit_code or 0)


def _fail(message: str, error: BaseException, exit_code: int, *, debug: bool) -> None:
    if log_lines.is_json():
        log_lines.write_failure(f"msd: {message}", error, exit_code=exit_code, with_traceback=debug)
    else:
        if debug:
            traceback.print_exc()
        note(f"msd: {message}")
    sys.stdout.flush()
    sys.exit(exit_code)
