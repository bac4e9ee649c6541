"""`msd publish`: what readers of the feature store are pointed at, and how they get back."""

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from pipeline import runner
from pipeline.call import DateOption, DebugOption, PresetOption, SetOption, SourceOption, WorkOption, plan_of
from pipeline.errors import UsageError
from pipeline.job import load
from pipeline.progress import note
from pipeline.runner import Plan
from pipeline.stages import BY_NAME
from pipeline.storage import Workspace, held_by_us

COMMAND = "feature_repo.publish_command"
GRACE_HOURS = 24.0


def publish(
    tuned: Annotated[bool, typer.Option("--tuned", help="Publish the tuned student's space.")] = False,
    list_: Annotated[bool, typer.Option("--list", help="Show the generations, and which one readers have.")] = False,
    activate: Annotated[
        str | None,
        typer.Option(
            "--activate",
            metavar="GENERATION|SPACE",
            help="Point readers at a generation, or at the latest one of a space; the first digits will do.",
            show_default=False,
        ),
    ] = None,
    rollback: Annotated[bool, typer.Option("--rollback", help="Point readers at the generation before.")] = False,
    collect: Annotated[bool, typer.Option("--collect", help="Remove generations that readers have left.")] = False,
    grace_hours: Annotated[
        float, typer.Option("--grace-hours", min=0, help="With --collect: keep what was left so recently.")
    ] = GRACE_HOURS,
    source: SourceOption = None,
    preset: PresetOption = None,
    set_: SetOption = None,
    date: DateOption = None,
    work: WorkOption = Path("work"),
    debug: DebugOption = False,
) -> None:
    """Publishes the features and points readers at them; or lists, activates, rolls back and collects generations.

    Without an option it makes the dataset publication, or brings a committed one back into a Redis that lacks it.
    """
    if sum((list_, activate is not None, rollback, collect)) > 1:
        raise UsageError("--list, --activate, --rollback and --collect are four commands; give one of them")
    root = _existing(work)
    if list_:
        _print(load(f"{COMMAND}:listed")(root))
    elif activate is not None:
        note(f"readers are pointed at the generation {load(f'{COMMAND}:activate')(root, activate)}")
    elif rollback:
        note(f"readers are pointed at the generation {load(f'{COMMAND}:rollback')(root)} again")
    elif collect:
        gone = load(f"{COMMAND}:collect_now")(root, grace_hours)
        note(f"removed {', '.join(gone)}" if gone else "there was nothing to remove")
    else:
        _publish(plan_of(work, source, preset, set_, date), "tuned_publication" if tuned else "publication")


def _existing(work: Path) -> Path:
    if work.exists() and not work.is_dir():
        raise UsageError(f"--work {work} is a file; name a folder")
    return Workspace(work).root if work.is_dir() else work.resolve()


def _publish(plan: Plan, name: str) -> None:
    dataset = plan.dataset(name)
    if dataset.manifest is None:
        runner.run(plan, [name])
        return
    features = [plan.dataset(needed) for needed in BY_NAME[name].inputs]
    with held_by_us(dataset):
        brought = load(f"{COMMAND}:ensure_published")(plan.settings[name], dataset, features)
    done = "brought back from its receipt" if brought else "is there already, nothing was written"
    note(f"generation {dataset.fingerprint}: {done}")


def _print(lines: list[Any]) -> None:
    table = Table(box=None)
    for column in ("generation", "state", "space", "made by", "age", "left", "keys", "MiB"):
        table.add_column(column, justify="right" if column in ("age", "left", "MiB") else "left", no_wrap=True)
    for line in lines:
        table.add_row(
            line.generation, line.state, line.space_id[:8], line.made, line.age, line.left, line.keys, line.mebibytes
        )
    console = Console(highlight=False)
    # A pipe has no width of its own, and names cut short cannot be activated.
    console.width = max(console.width, 140)
    console.print(table)
