"""What one day's key means: WORK/partitions/YYYY-MM-DD.json, written once, before anything of that day is made.

A scheduled chain runs for hours, in many processes, while files grow and settings are edited. The record holds the
call and the fingerprint of every dataset as they were when the day was opened, so that each task of the chain, a task
that is run again, and a reader next month all mean the same datasets.

A day's datasets are as of its end in UTC: later events are skipped, and `{date}` in the source's paths is the day. With
`refresh_days` above one, a day goes on with the teacher and student of an earlier day that is not that old yet, so that
vectors stay in one space and only new texts are read.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

from pipeline import runner, settings
from pipeline.errors import StageError, UsageError
from pipeline.runner import Plan
from pipeline.source import load_source
from pipeline.stages import with_ancestors
from pipeline.storage import Workspace, write_atomically, write_once

FOLDER = "partitions"
KNOWLEDGE = ("prompts", "teacher_outputs", "teacher_quality", "student")
"""Stages whose datasets a day may take over from an earlier one."""


@dataclass(frozen=True, kw_only=True)
class Partition:
    """One day, as it was opened."""

    date: str
    source: str
    preset: str
    overrides: list[str]
    refresh_days: int
    knowledge_date: str
    """The day whose teacher and student this one has; its own, or an earlier one."""
    opened_at: str
    fingerprints: Mapping[str, str]
    """Stage → the whole fingerprint of its dataset."""

    @property
    def call(self) -> dict[str, Any]:
        """What a person chose."""
        return {
            "source": self.source,
            "preset": self.preset,
            "overrides": list(self.overrides),
            "refresh_days": self.refresh_days,
        }


def parse_date(text: str | None) -> str:
    """The day as YYYY-MM-DD.

    Raises:
        UsageError: it is missing, or no such day.
    """
    try:
        day = date.fromisoformat(text or "").isoformat()
    except ValueError:
        day = ""
    if not text or day != text:
        raise UsageError(f"--date {text or 'is empty'}: a day like 2026-11-20 is wanted")
    return day


def open_partition(workspace: Workspace, day: str, call: Mapping[str, Any], *, again: bool = False) -> Partition:
    """Records what the day means, unless it is recorded already.

    Args:
        workspace: where its datasets will lie.
        day: YYYY-MM-DD.
        call: `source`, `preset`, `overrides` and `refresh_days`.
        again: the files or the call changed, and the day is to mean what they are now.

    Raises:
        UsageError: the day was opened with another call, or the call is wrong.
    """
    known = _read(workspace, parse_date(day))
    if known is not None and not again:
        if known.call != dict(call):
            changed = ", ".join(key for key in known.call if known.call[key] != call[key])
            raise UsageError(
                f"{day} was opened with another {changed}: {_told(known.call)}; give the same, use another --work, or"
                " open it anew: msd open --again"
            )
        return known
    if call["refresh_days"] < 1:
        raise UsageError(f"--refresh-days must be 1 or more, not {call['refresh_days']}")
    base = _base(workspace, day, call)
    pinned = {} if base is None else {name: base.fingerprints[name] for name in KNOWLEDGE}
    plan = _current(workspace, day, call, pinned)
    opened = Partition(
        date=day,
        **call,
        knowledge_date=base.date if base else day,
        opened_at=datetime.now(UTC).isoformat(timespec="seconds"),
        fingerprints=dict(plan.fingerprints),
    )
    content = json.dumps(asdict(opened), indent=1).encode()
    if again:
        write_atomically(_path(workspace, day), content)
    elif not write_once(_path(workspace, day), content):
        # Somebody else opened the day meanwhile: theirs holds, and is compared with ours.
        return open_partition(workspace, day, call)
    return opened


def read_partition(workspace: Workspace, day: str) -> Partition:
    """The record of a day.

    Raises:
        UsageError: it is no day.
        StageError: it was not opened in this work folder.
    """
    found = _read(workspace, parse_date(day))
    if found is None:
        raise StageError(f"{day} is not open in {workspace.root}; run: msd open --date {day} --source … --preset …")
    return found


def partition_plan(workspace: Workspace, day: str) -> Plan:
    """The datasets of a day that was opened.

    Datasets that would come out otherwise today than when the day was opened can be read, but not made any more.

    Raises:
        StageError: the day was not opened.
        UsageError: its source or preset is gone.
    """
    partition = read_partition(workspace, day)
    pinned = {}
    if partition.knowledge_date != day:
        pinned = {name: partition.fingerprints[name] for name in KNOWLEDGE}
    current = _current(workspace, day, partition.call, pinned)
    refused = dict(current.refused) | {name: _belongs_to(partition, name) for name in pinned}
    for name in _changed(partition, current):
        if name not in refused:
            refused[name] = (
                f"the source's files, the settings, the project's version or the list of erased people changed since"
                f" {day} was opened; run: msd open --date {day} --again, with the same options"
            )
    fingerprints = {**current.fingerprints, **partition.fingerprints}
    return Plan(
        workspace=workspace,
        source=current.source,
        settings=current.settings,
        fingerprints=fingerprints,
        date=day,
        refused=refused,
        stages=current.stages,
    )


def make_knowledge(plan: Plan, names: list[str]) -> list[str]:
    """Makes what the named datasets of a day need of the earlier day whose teacher and student it goes on with.

    Returns:
        The stages that ran.
    """
    partition = read_partition(plan.workspace, plan.date)
    needed = {stage.name for stage in with_ancestors(names, plan.stages)}
    missing = [name for name in KNOWLEDGE if name in needed and plan.dataset(name).manifest is None]
    if partition.knowledge_date == plan.date or not missing:
        return []
    return runner.run(partition_plan(plan.workspace, partition.knowledge_date), missing)


def is_open(work: Path, day: str) -> bool:
    """Whether the day was opened in a work folder, which need not be there.

    Raises:
        UsageError: it is no day.
    """
    return (work / FOLDER / f"{parse_date(day)}.json").is_file()


def opened_days(workspace: Workspace) -> list[str]:
    """Days that were opened, the earliest first."""
    return sorted(path.stem for path in (workspace.root / FOLDER).glob("????-??-??.json"))


def _current(workspace: Workspace, day: str, call: Mapping[str, Any], pinned: Mapping[str, str]) -> Plan:
    """The plan of the files and settings as they are now."""
    overrides = [*call["overrides"], f'interactions.last_day="{day}"']
    resolved = settings.resolve(call["preset"], overrides)
    return runner.make_plan(workspace, load_source(call["source"], day), resolved, pinned=pinned)


def _changed(partition: Partition, current: Plan) -> list[str]:
    """Stages that would come out otherwise today; one the project learned since is as its inputs are."""
    changed: list[str] = []
    for name, stage in current.stages.items():
        recorded = partition.fingerprints.get(name)
        is_changed = recorded != current.fingerprints[name] if recorded else not set(changed).isdisjoint(stage.inputs)
        if is_changed:
            changed.append(name)
    return changed


def _base(workspace: Workspace, day: str, call: Mapping[str, Any]) -> Partition | None:
    """The newest earlier day of the same call that made its own student, while that is younger than `refresh_days`."""
    for earlier in reversed(opened_days(workspace)):
        age_days = (date.fromisoformat(day) - date.fromisoformat(earlier)).days
        if not 0 < age_days < call["refresh_days"]:
            continue
        found = _read(workspace, earlier)
        if found is not None and found.knowledge_date == earlier and _is_same(found.call, call):
            return found
    return None


def _is_same(call: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    return all(call[key] == other[key] for key in ("source", "preset", "overrides"))


def _belongs_to(partition: Partition, name: str) -> str:
    return (
        f"{partition.date} goes on with that of {partition.knowledge_date}, which is not made yet; run: msd run {name}"
        f" --date {partition.knowledge_date}"
    )


def _read(workspace: Workspace, day: str) -> Partition | None:
    path = _path(workspace, day)
    return Partition(**json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else None


def _path(workspace: Workspace, day: str) -> Path:
    return workspace.root / FOLDER / f"{day}.json"


def _told(call: Mapping[str, Any]) -> str:
    sets: Iterable[str] = (f"--set {override}" for override in call["overrides"])
    return " ".join(
        (f"--source {call['source']}", f"--preset {call['preset']}", *sets, f"--refresh-days {call['refresh_days']}")
    )
