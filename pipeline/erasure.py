"""`msd erase`: takes one person out of everything a work folder and its source hold, and proves it.

The order makes a kill harmless: first the list that keeps the person out, then the source's files, then what is found
through the tables (kept completions and vectors, the online store), and the tables last. The same command goes on where
a killed one was. A receipt under WORK/erasures/ says what was found and what is left; it names nobody.
"""

import json
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from pipeline import dataset_erasure
from pipeline.dataset_erasure import Found
from pipeline.erased import ErasedList, read_erased, write_erased
from pipeline.job import load
from pipeline.kept_of import Kept, gather
from pipeline.parquet_rows import rewrite
from pipeline.person import Person
from pipeline.progress import note
from pipeline.raw_erasure import RawFile, count_rows, raw_files, take_out
from pipeline.residue import search
from pipeline.runner import Plan
from pipeline.storage import Dataset, amend, held_by_us, write_atomically

RECEIPTS = "erasures"
NAME_DIGITS = 16
ONLINE = "feature_repo.erasure"
TRAINED = {
    "student": "teacher_outputs",
    "tuned_student": "ctr_records",
    "ctr_model": "ctr_records",
    "canary_model": "ctr_records",
}
"""Models → the input through which they saw a person."""


@dataclass(kw_only=True)
class Place:
    """Somewhere a person's rows were, and how many are left."""

    name: str
    found: int
    left: int
    action: str


@dataclass(kw_only=True)
class Report:
    """What an erasure found, did and left."""

    places: list[Place]
    models: list[str]
    """Trained with the person's rows; weights are not unlearned."""
    kept: list[str] = field(default_factory=list)
    """What was meant to stay, and why."""
    missed: list[str] = field(default_factory=list)
    """What could not be looked into, and why."""

    @property
    def is_clean(self) -> bool:
        """Whether nothing is left."""
        return not self.missed and not any(place.left for place in self.places)

    @property
    def found(self) -> int:
        """Rows, keys and values found in all places."""
        return sum(place.found for place in self.places)


class Erasure:
    """One person's erasure from one work folder."""

    def __init__(self, plan: Plan, user_id: str, *, keep_raw: bool = False, models: bool = False) -> None:
        """Looks nothing up yet.

        Args:
            plan: the work folder, and the source whose files are rewritten.
            user_id: of the person.
            keep_raw: True leaves the source's files alone.
            models: True deletes the models that were trained with the person's rows.
        """
        self.plan = plan
        self.root = plan.workspace.root
        self.person = Person(user_id)
        self.keep_raw = keep_raw
        self.models = models
        self.listed: ErasedList = read_erased(self.root)
        self.reached: list[str] = []

    @property
    def receipt(self) -> Path:
        """Where the receipt lies: named by the salted hash of the id."""
        return self.root / RECEIPTS / f"{self.listed.digest_of(self.person.user_id)[:NAME_DIGITS]}.json"

    def survey(self) -> Report:
        """What there is of the person; changes nothing.

        Raises:
            ServiceError: the online store cannot be reached.
            SourceError: a file of the source cannot be read as the source says.
        """
        kept = gather(self.plan, self.person)
        self.person = Person(self.person.user_id, frozenset(kept.text_ids))
        found = dataset_erasure.survey(self.root, self.person)
        places = [*self._raw_places(), *_store_places(self.root, kept), *self._online_places()]
        places += [Place(name=name, found=rows, left=rows, action=act) for name, rows, act in _grouped(found)]
        others = [(path, dataset_erasure.count_rows(path, self.person)) for path in self._others()]
        places += [self._place(path, rows, "cut") for path, rows in others if rows]
        missed = [*kept.missed, *self._unreached().values()]
        return Report(
            places=places, models=self._models(found), kept=[*self._shared(), *self._other_sources()], missed=missed
        )

    def run(self, before: Report) -> Report:
        """Erases, then searches everything again.

        Args:
            before: of `survey`.

        Raises:
            BusyError: a dataset is being made; nothing was changed.
        """
        with ExitStack() as stack:
            stack.enter_context(held_by_us(self._lock()))
            all_datasets = dataset_erasure.datasets(self.root)
            for name, fingerprint in dict.fromkeys((each.name, each.fingerprint) for each in all_datasets):
                folder = self.root / name / fingerprint
                stack.enter_context(held_by_us(Dataset(name=name, fingerprint=fingerprint, folder=folder, schema=None)))
            resumed = self._begin(before)
            self._erase_sources_and_stores()
            self._erase_tables(resumed)
            return self._prove(before, resumed)

    def _lock(self) -> Dataset:
        return Dataset(name=RECEIPTS, fingerprint="all", folder=self.root / RECEIPTS / "all", schema=None)

    def _begin(self, before: Report) -> dict[str, Any]:
        """Puts the person on the list; the receipt of a run that was killed, else an empty one."""
        self.listed = write_erased(self.root, self.person.user_id, self.listed)
        last = self._last()
        resumed = last if last.get("state") == "begun" else {}
        self.reached = sorted({*last.get("reached", []), load(f"{ONLINE}:reached_server")()})
        before.models = sorted({*before.models, *resumed.get("models", [])})
        places = _merged(resumed.get("places", []), before.places)
        self._write("begun", {"places": places, "models": before.models, "reached": last.get("reached", [])})
        return resumed

    def _erase_sources_and_stores(self) -> None:
        for file in self._raw() if not self.keep_raw else ():
            if not file.is_shared and count_rows(file, self.person):
                note(f"  {file.path.name}: rewritten without the person's rows")
                take_out(file, self.person)
        gather(self.plan, self.person).remove(self.root)
        load(f"{ONLINE}:erase_online")(self.root, self.person.user_id)

    def _erase_tables(self, resumed: dict[str, Any]) -> None:
        for dataset in dataset_erasure.datasets(self.root):
            dataset_erasure.erase_in(dataset, self.person)
            # A kill may have come between a file and the manifest that vouches for it.
            if resumed and dataset.manifest is not None:
                amend(dataset.folder, 0)
        for path in self._others():
            if dataset_erasure.count_rows(path, self.person):
                rewrite(path, partial(dataset_erasure.cut, self.person))
        for name in self._trained_to_delete():
            dataset_erasure.delete(self.root / name)

    def _prove(self, before: Report, resumed: dict[str, Any]) -> Report:
        """Looks everywhere again, by columns and by every other file's bytes."""
        after = self.survey()
        left = {place.name: place.left for place in after.places}
        merged = _merged(resumed.get("places", []), before.places)
        places = [Place(**{**place, "left": left.pop(place["name"], 0)}) for place in merged]
        places += [Place(name=name, found=rows, left=rows, action="found afterwards") for name, rows in left.items()]
        if self.keep_raw:
            places = [place for place in places if not place.name.startswith("source ")]
        places += [
            Place(name=str(path.relative_to(self.root)), found=hits, left=hits, action="the id stands in it as a word")
            for path, hits in search(self.root, self.person)
        ]
        report = Report(places=places, models=before.models, kept=after.kept, missed=after.missed)
        if self.keep_raw:
            report.kept.append("the source's files: --keep-raw; the list keeps their rows out of this work folder")
        self._write("done" if report.is_clean else "incomplete", _told(report) | {"reached": self.reached})
        return report

    def _raw(self) -> list[RawFile]:
        return raw_files(self.plan.source)

    def _raw_places(self) -> Iterator[Place]:
        for file in self._raw():
            rows = 0 if file.is_shared else count_rows(file, self.person)
            if rows:
                action = "stays (--keep-raw)" if self.keep_raw else "cut, every other line as it was"
                yield Place(name=f"source {file.path.name}", found=rows, left=rows, action=action)

    def _shared(self) -> list[str]:
        names = sorted({file.path.name for file in self._raw() if file.is_shared})
        return [f"{', '.join(names)}: built-in public data, shared by all work folders"] if names else []

    def _unreached(self) -> dict[str, str]:
        """Servers that neither this call reaches nor an earlier erasure of the same person did."""
        told: dict[str, str] = load(f"{ONLINE}:unreached_servers")(self.root)
        return {kind: sentence for kind, sentence in told.items() if kind not in self._last().get("reached", [])}

    def _last(self) -> dict[str, Any]:
        """The receipt there is of this person."""
        return json.loads(self.receipt.read_text(encoding="utf-8")) if self.receipt.is_file() else {}

    def _other_sources(self) -> list[str]:
        """Sources that this work folder was made of before, whose files this call does not know."""
        made = [each for each in dataset_erasure.datasets(self.root) if each.name == "interactions"]
        names = {str(each.manifest["source"]) for each in made if each.manifest is not None}
        others = sorted(names - {self.plan.source.name})
        return [f"the files of the source {name}: msd erase with its --source rewrites them" for name in others]

    def _online_places(self) -> Iterator[Place]:
        count = load(f"{ONLINE}:count_online")(self.root, self.person.user_id)
        if count:
            name = load(f"{ONLINE}:online_place")()
            yield Place(name=name, found=count, left=count, action="key deleted, with all generations' fields")

    def _others(self) -> list[Path]:
        return dataset_erasure.unlisted_tables(self.root)

    def _place(self, path: Path, rows: int, action: str) -> Place:
        return Place(name=str(path.relative_to(self.root)), found=rows, left=rows, action=action)

    def _models(self, found: Iterable[Found]) -> list[str]:
        """Committed models made from a dataset that holds the person."""
        seen = {(each.dataset.name, each.dataset.fingerprint) for each in found if each.rows}
        trained = []
        for dataset in dataset_erasure.datasets(self.root):
            through = TRAINED.get(dataset.name)
            inputs = (dataset.manifest or {}).get("inputs", {})
            if through and (through, inputs.get(through)) in seen:
                trained.append(f"{dataset.name}/{dataset.fingerprint}")
        return trained

    def _trained_to_delete(self) -> list[str]:
        return [name for name in self._last()["models"] if self.models and (self.root / name).is_dir()]

    def _write(self, state: str, facts: dict[str, Any]) -> None:
        now = datetime.now(UTC).isoformat(timespec="seconds")
        told = {"state": state, "at": now, "source": self.plan.source.name, **facts}
        write_atomically(self.receipt, json.dumps(told, indent=1).encode())


def _store_places(root: Path, kept: Kept) -> Iterator[Place]:
    for name, count in kept.count(root).items():
        if count:
            yield Place(name=name, found=count, left=count, action="removed")


def _grouped(found: Iterable[Found]) -> Iterator[tuple[str, int, str]]:
    """(dataset, rows, action) of all fingerprints of a dataset together."""
    rows: dict[tuple[str, str], int] = {}
    for each in found:
        key = (each.dataset.name, each.action)
        rows[key] = rows.get(key, 0) + each.rows
    names = [name for name, _ in rows]
    for (name, action), count in rows.items():
        yield (name if names.count(name) == 1 else f"{name} ({action})"), count, action


def _merged(earlier: Iterable[dict[str, Any]], now: Iterable[Place]) -> list[dict[str, Any]]:
    """Places by name; what a killed run had found counts, where more is not found now."""
    merged = {place["name"]: dict(place) for place in earlier}
    for place in now:
        known = merged.setdefault(place.name, dict(vars(place)))
        known["found"] = max(known["found"], place.found)
    return list(merged.values())


def _told(report: Report) -> dict[str, Any]:
    places = [dict(vars(place)) for place in report.places]
    return {"places": places, "models": report.models, "kept": report.kept, "missed": report.missed}
