"""What every command's call has in common: the options that name the datasets meant, and the plan they stand for."""

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from pipeline import runner, settings
from pipeline.errors import MsdError, UsageError
from pipeline.log_lines import bind
from pipeline.partitions import Partition, open_partition, partition_plan, read_partition
from pipeline.runner import Plan
from pipeline.source import built_in_sources, load_source
from pipeline.storage import Workspace

ENVIRONMENT = {"HF_HUB_OFFLINE": "1", "OMP_WAIT_POLICY": "passive"}
"""Nothing comes from a model hub; and threads that wait sleep, since on a shared machine spinning ones slow training
down ten times."""
SOURCE, PRESET = "movielens-100k", "small"
DEFAULTS: dict[str, Any] = {"source": SOURCE, "preset": PRESET, "overrides": []}

SourceOption = Annotated[
    str | None,
    typer.Option(
        "--source",
        help="A source TOML, a built-in name (" + ", ".join(built_in_sources()) + ") or NAME:FOLDER. Default: the last"
        " run's, else movielens-100k.",
        show_default=False,
    ),
]
PresetOption = Annotated[
    str | None,
    typer.Option(
        "--preset",
        help="One of " + ", ".join(settings.presets()) + ", or a TOML file. Default: the last run's, else small.",
        show_default=False,
    ),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", help="stage.key=value, as often as needed; wins over the preset.", show_default=False),
]
WorkOption = Annotated[Path, typer.Option("--work", help="The folder datasets are kept in.", envvar="MSD_WORK")]
DebugOption = Annotated[bool, typer.Option("--debug", help="Show a traceback when something fails.")]


DateOption = Annotated[
    str | None,
    typer.Option(
        "--date",
        metavar="YYYY-MM-DD",
        help="The datasets as of the end of that UTC day, which msd open has recorded with its source and settings.",
        show_default=False,
    ),
]


def plan_of(
    work: Path, source: str | None, preset: str | None, overrides: Iterable[str] | None, date: str | None = None
) -> Plan:
    """The datasets that a call means; what it leaves out is as in the last run of that work folder.

    Args:
        work: the work folder.
        source: as the option has it.
        preset: as the option has it.
        overrides: `stage.key=value`.
        date: of a day that was opened, whose record says the rest.

    Raises:
        UsageError: the work folder is a file, a source or setting is wrong, or it is not what the day was opened with.
        StageError: the day was not opened.
    """
    workspace, call = _call(work, source, preset, overrides)
    if date is None:
        return _plan(workspace, call)
    bind(date=date)
    _check_same(read_partition(workspace, date), call, source, preset, overrides)
    _set_environment()
    return partition_plan(workspace, date)


def open_day(work: Path, date: str, call: Mapping[str, Any], *, again: bool) -> Partition:
    """Records what a day means (pipeline.partitions).

    Args:
        work: the work folder.
        date: YYYY-MM-DD.
        call: `source`, `preset`, `overrides`, each None where the last call's holds, and `refresh_days`.
        again: the day is to mean what the files and the call are now.
    """
    bind(date=date)
    workspace, resolved = _call(work, call["source"], call["preset"], call["overrides"])
    _set_environment()
    return open_partition(workspace, date, resolved | {"refresh_days": call["refresh_days"]}, again=again)


@contextmanager
def remembered_plan(
    work: Path, source: str | None, preset: str | None, overrides: Iterable[str] | None
) -> Iterator[Plan]:
    """The same for a run, which later calls without flags go on with, killed or failed; a wrong call is forgotten."""
    workspace, call = _call(work, source, preset, overrides)
    plan, before = _plan(workspace, call), workspace.remembered()
    workspace.remember(call)
    try:
        yield plan
    except MsdError as error:
        if error.exit_code == UsageError.exit_code:
            workspace.remember(before)
        raise


def _call(
    work: Path, source: str | None, preset: str | None, overrides: Iterable[str] | None
) -> tuple[Workspace, dict[str, Any]]:
    if work.exists() and not work.is_dir():
        raise UsageError(f"--work {work} is a file; name a folder")
    workspace = Workspace(work)
    last = DEFAULTS | workspace.remembered()
    return workspace, {
        "source": absolute(source) if source is not None else last["source"],
        "preset": absolute(preset) if preset is not None else last["preset"],
        "overrides": list(overrides) if overrides is not None else last["overrides"] if source is None else [],
    }


def _check_same(
    partition: Partition, call: Mapping[str, Any], source: str | None, preset: str | None, overrides: Any
) -> None:
    given = {"source": source, "preset": preset, "overrides": overrides}
    for key, value in given.items():
        if value is not None and call[key] != partition.call[key]:
            raise UsageError(
                f"{partition.date} was opened with the {key} {partition.call[key]}, not {call[key]}; leave the option"
                f" out, or open the day anew: msd open --date {partition.date} --again"
            )


def _set_environment() -> None:
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)


def _plan(workspace: Workspace, call: Mapping[str, Any]) -> Plan:
    _set_environment()
    return runner.make_plan(workspace, load_source(call["source"]), settings.resolve(call["preset"], call["overrides"]))


def absolute(reference: str) -> str:
    """A file reference that still holds from another folder; names stay as they are."""
    path, colon, folder = reference.partition(":")
    if Path(path).is_file():
        path = str(Path(path).resolve())
    return path + colon + (str(Path(folder).resolve()) if folder else "")
