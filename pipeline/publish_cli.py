"""`msd publish`: what readers of the feature store are pointed at, and how they get back."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from pipeline import gate, runner
from pipeline.call import DateOption, DebugOption, PresetOption, SetOption, SourceOption, WorkOption, plan_of
from pipeline.errors import StageError, UsageError
from pipeline.job import load
from pipeline.partitions import opened_days, read_partition
from pipeline.progress import note
from pipeline.runner import Plan
from pipeline.stages import BY_NAME
from pipeline.storage import Workspace, held_by_us

COMMAND = "feature_repo.publish_command"
GRACE_HOURS = 24.0
THIS = "this"


def publish(
    tuned: Annotated[bool, typer.Option("--tuned", help="Publish the tuned student's space.")] = False,
    list_: Annotated[bool, typer.Option("--list", help="Show the generations, and which one readers have.")] = False,
    activate: Annotated[
        str | None,
        typer.Option(
            "--activate",
            metavar="this|GENERATION|SPACE",
            help="Point readers at a generation, or at the latest one of a space, by its first digits; `this` is"
            " the one that the settings or --date mean.",
            show_default=False,
        ),
    ] = None,
    no_activate: Annotated[
        bool, typer.Option("--no-activate", help="Bring the generation online and leave readers where they are.")
    ] = False,
    again: Annotated[
        bool, typer.Option("--again", help="Write every value anew, in place, where a server lost or changed some.")
    ] = False,
    despite_gate: Annotated[
        bool, typer.Option("--despite-gate", help="Point readers at a generation whose gate is closed.")
    ] = False,
    rollback: Annotated[
        bool,
        typer.Option(
            "--rollback",
            help="Point readers at the generation before; with --date only where they are at that day's.",
        ),
    ] = False,
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
    With --date that is the day's, and readers are pointed at it whatever [publication] activate says, unless they have
    a later day's. Where msd gate has closed the gate for a generation, readers are not pointed at it.
    """
    if sum((list_, activate is not None, rollback, collect, no_activate, again)) > 1:
        raise UsageError(
            "--list, --activate, --no-activate, --again, --rollback and --collect are six commands; give one of them"
        )
    root = _existing(work)
    name = "tuned_publication" if tuned else "publication"
    if list_:
        _print(load(f"{COMMAND}:listed")(root))
    elif activate is not None and activate != THIS:
        now = load(f"{COMMAND}:activate")(root, activate, _heed(root, despite_gate=despite_gate))
        note(f"readers are pointed at the generation {now}")
    elif rollback:
        leaving = plan_of(work, source, preset, set_, date).dataset(name).fingerprint if date is not None else ""
        note(f"readers are pointed at the generation {load(f'{COMMAND}:rollback')(root, leaving)} again")
    elif collect:
        gone = load(f"{COMMAND}:collect_now")(root, grace_hours)
        note(f"removed {', '.join(gone)}" if gone else "there was nothing to remove")
    else:
        plan = plan_of(work, source, preset, set_, date)
        if activate == THIS or again:
            _check_made(plan, name)
        is_days = date is not None and not tuned
        if again:
            _write_anew(plan, name)
            return
        activates = not no_activate and (activate == THIS or is_days or plan.settings[name].activate)
        activates = activates and not _is_behind(plan, name)
        _publish(plan, name, activates=activates, heed=_heed(root, despite_gate=despite_gate))


def _existing(work: Path) -> Path:
    if work.exists() and not work.is_dir():
        raise UsageError(f"--work {work} is a file; name a folder")
    return Workspace(work).root if work.is_dir() else work.resolve()


def _heed(root: Path, *, despite_gate: bool) -> Callable[[str], None]:
    """What is asked before readers are pointed at a generation."""

    def heed(generation: str) -> None:
        if not despite_gate:
            gate.check_open(root, generation)

    return heed


def _is_behind(plan: Plan, name: str) -> bool:
    """Whether readers have the generation of a later day, which a backfill must not take from them."""
    if not plan.date:
        return False
    active = load("feature_repo.gate:active_generation")(plan.workspace)
    if active is None or active.generation == plan.dataset(name).fingerprint:
        return False
    for day in opened_days(plan.workspace):
        fingerprint = read_partition(plan.workspace, day).fingerprints.get(name, "")
        if day > plan.date and fingerprint.startswith(active.generation):
            note(
                f"readers have the generation {active.generation} of {day}, which is later than {plan.date}, and stay"
                f" there; to point them at this one: msd publish --activate {plan.dataset(name).fingerprint}"
            )
            return True
    return False


def _check_made(plan: Plan, name: str) -> None:
    if plan.dataset(name).manifest is None:
        call = f" --date {plan.date}" if plan.date else ""
        raise StageError(f"{name} is not made yet; run: msd publish{call} --no-activate")


def _publish(plan: Plan, name: str, *, activates: bool, heed: Callable[[str], None]) -> None:
    """Brings a generation online, and readers to it where asked."""
    dataset = plan.dataset(name)
    if activates:
        heed(dataset.fingerprint)
    config = replace(plan.settings[name], activate=activates)
    if dataset.manifest is None:
        runner.run(replace(plan, settings={**plan.settings, name: config}), [name])
        return
    features = [plan.dataset(needed) for needed in BY_NAME[name].inputs]
    with held_by_us(dataset):
        brought = load(f"{COMMAND}:ensure_published")(config, dataset, features)
    done = "readers have it now" if activates else "brought back from its receipt"
    note(f"generation {dataset.fingerprint}: {done if brought else 'is there already, nothing was written'}")


def _write_anew(plan: Plan, name: str) -> None:
    """Of a generation that readers have, or have not; either way they stay where they are."""
    dataset = plan.dataset(name)
    features = [plan.dataset(needed) for needed in BY_NAME[name].inputs]
    with held_by_us(dataset):
        load(f"{COMMAND}:write_anew")(replace(plan.settings[name], activate=False), dataset, features)
    note(f"generation {dataset.fingerprint}: every value was written anew")


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
