"""The description of a user's files: a TOML document, parsed and checked before any of them is read.

Only the shape of the document and the existence of its files are checked here; columns and types are the business of
`spark_jobs`, which reads them. `docs/sources.md` shows every key.
"""

import difflib
import re
import tomllib
from dataclasses import dataclass, field, fields
from enum import StrEnum
from importlib import resources
from pathlib import Path
from typing import Any

from pipeline import assets
from pipeline.errors import SourceError


class Format(StrEnum):
    """How a file is read; `auto` goes by its ending."""

    AUTO = "auto"
    CSV = "csv"
    TSV = "tsv"
    JSONL = "jsonl"
    JSON = "json"
    PARQUET = "parquet"
    MIND = "mind"
    KDD_CUP_2012 = "kdd-cup-2012"


class SplitBy(StrEnum):
    """How labels are divided into train, valid and test."""

    TIME = "time"
    USER = "user"
    GIVEN = "given"


@dataclass(frozen=True, kw_only=True)
class Files:
    """Where a table lies and how it is read."""

    paths: dict[str, tuple[Path, ...]]
    """Split name → files; the key is empty where the files carry no split of their own."""
    format: Format = Format.AUTO
    columns: tuple[str, ...] = ()
    """Names for files without a header, or in place of one."""
    header: bool = True
    """Whether CSV and TSV files begin with a line of names."""
    separator: str = ""
    """Of CSV and TSV; empty means the format's own."""

    @property
    def all_paths(self) -> tuple[Path, ...]:
        """Every file, splits in the order given."""
        return tuple(path for group in self.paths.values() for path in group)


@dataclass(frozen=True, kw_only=True)
class ItemsTable:
    """The table [items]."""

    files: Files
    id: str = "item_id"
    text: tuple[str, ...] = ("title",)
    category: str = ""
    category_separator: str = ""
    """Where a category column lists several, the first one is the stratum."""
    attributes: tuple[str, ...] = ()
    time: str = ""
    """When the row's text became known; optional."""
    deduplicate: bool = False
    """True keeps the first row of an id (catalogues cut out of an event log); False rejects the later ones."""


@dataclass(frozen=True, kw_only=True)
class Label:
    """A label column and, for ratings, the condition that makes it positive."""

    column: str = ""
    """Empty: every event is positive."""
    operator: str = ""
    threshold: float = 0.0


@dataclass(frozen=True, kw_only=True)
class EventsTable:
    """The table [events]."""

    files: Files
    user: str = "user_id"
    item: str = "item_id"
    time: str = ""
    """Empty: the order of the rows is their time."""
    label: Label = Label()
    split: str = ""
    context: tuple[str, ...] = ()
    text_context: tuple[str, ...] = ()
    history: str = ""
    """A column that lists items the user met before the row, oldest first; the first row of each user is used."""


@dataclass(frozen=True, kw_only=True)
class UsersTable:
    """The table [users]."""

    files: Files
    id: str = "user_id"
    attributes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Labels:
    """The table [labels]."""

    split_by: SplitBy = SplitBy.TIME
    fractions: tuple[float, float, float] = (0.8, 0.1, 0.1)
    min_history: int = 0
    """Labels of users with fewer earlier events (as counted by [histories] events) go to the split `history`."""
    negatives_per_positive: int = 0
    negatives_by: str = "popularity"
    """popularity or uniform."""


@dataclass(frozen=True, kw_only=True)
class HistoryRules:
    """The table [histories]."""

    events: str = "positive"
    """positive or all."""
    max_length: int = 50


@dataclass(frozen=True, kw_only=True)
class Source:
    """A whole source."""

    name: str
    items: ItemsTable
    events: EventsTable
    users: UsersTable | None = None
    labels: Labels = field(default_factory=Labels)
    histories: HistoryRules = field(default_factory=HistoryRules)
    document: dict[str, Any] = field(default_factory=dict)
    """The parsed TOML, part of every fingerprint that reads the source."""

    def all_paths(self) -> tuple[Path, ...]:
        """Every file the source reads, each once."""
        tables = [self.items.files, self.events.files, *([self.users.files] if self.users else [])]
        return tuple(dict.fromkeys(path for files in tables for path in files.all_paths))


def built_in_sources() -> list[str]:
    """Names that need no file: `movielens-100k`, …; `mind` and `kdd-cup-2012` take a folder, `mind:FOLDER`."""
    return sorted(path.name[:-5] for path in _source_folder().iterdir() if path.name.endswith(".toml"))


def load_source(reference: str) -> Source:
    """Reads and checks a source.

    Args:
        reference: a built-in name, `name:FOLDER` for a built-in format, or the path of a TOML file.

    Raises:
        SourceError: an unknown name or key, or a file that is not there.
    """
    name, colon, folder = reference.partition(":")
    if name in built_in_sources() and not Path(reference).is_file():
        text = (_source_folder() / f"{name}.toml").read_text(encoding="utf-8")
        if "{folder}" in text and not (colon and folder):
            raise SourceError(f"source {name} reads files of yours: write --source {name}:FOLDER")
        text = text.replace("{folder}", str(Path(folder).resolve()))
        return parse_source(name, text, Path.cwd())
    path = Path(reference)
    if not path.is_file():
        known = ", ".join(built_in_sources())
        raise SourceError(f"source {reference} is neither a file nor a built-in name ({known})")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise SourceError(f"{path.name} is not UTF-8 text: {error.reason} at byte {error.start}") from error
    return parse_source(path.stem, text, path.resolve().parent)


def parse_source(name: str, text: str, folder: Path) -> Source:
    """Parses the TOML of a source; relative paths are taken from folder."""
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise SourceError(f"{name}: not valid TOML: {error}") from error
    _only(name, "the file", document, {"items", "events", "users", "labels", "histories"})
    for table in ("items", "events"):
        if not isinstance(document.get(table), dict):
            raise SourceError(f"{name}: the table [{table}] is missing")
    reader = _TableReader(name, folder)
    return Source(
        name=name,
        items=reader.items(document["items"]),
        events=reader.events(document["events"]),
        users=reader.users(document["users"]) if "users" in document else None,
        labels=reader.labels(document.get("labels", {})),
        histories=reader.histories(document.get("histories", {})),
        document=document,
    )


_FILE_KEYS = {"path", "format", "columns", "header", "separator"}
_POSITIVE = re.compile(r"\s*(>=|<=|==|>|<|=)\s*(-?\d+(?:\.\d+)?)\s*")


class _TableReader:
    """Turns TOML tables into the dataclasses above; holds what every message needs."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        self.folder = folder

    def items(self, table: dict[str, Any]) -> ItemsTable:
        return self._table(ItemsTable, "items", table, files=self._files("items", table))

    def users(self, table: dict[str, Any]) -> UsersTable:
        return self._table(UsersTable, "users", table, files=self._files("users", table))

    def events(self, table: dict[str, Any]) -> EventsTable:
        label = self._label(table.get("label"))
        return self._table(EventsTable, "events", table, files=self._files("events", table), label=label)

    def labels(self, table: dict[str, Any]) -> Labels:
        _only(self.name, "[labels]", table, {"split", "min_history", "negatives"})
        split, negatives = table.get("split", {}), table.get("negatives", {})
        _only(self.name, "[labels] split", split, {"by", "fractions"})
        _only(self.name, "[labels] negatives", negatives, {"per_positive", "by"})
        fractions = tuple(float(part) for part in split.get("fractions", (0.8, 0.1, 0.1)))
        if len(fractions) != 3 or min(fractions) < 0 or abs(sum(fractions) - 1) > 1e-6:
            raise SourceError(f"{self.name}: [labels] fractions must be three shares that add up to 1, not {fractions}")
        by = str(negatives.get("by", "popularity"))
        if by not in ("popularity", "uniform"):
            raise SourceError(f"{self.name}: [labels] negatives by must be popularity or uniform, not '{by}'")
        return Labels(
            split_by=self._choice(SplitBy, split.get("by", "time"), "[labels] split by"),
            fractions=(fractions[0], fractions[1], fractions[2]),
            min_history=int(table.get("min_history", 0)),
            negatives_per_positive=int(negatives.get("per_positive", 0)),
            negatives_by=by,
        )

    def histories(self, table: dict[str, Any]) -> HistoryRules:
        _only(self.name, "[histories]", table, {"events", "max_length"})
        rules = HistoryRules(**table)
        if rules.events not in ("positive", "all"):
            raise SourceError(f'{self.name}: [histories] events must be "positive" or "all", not {rules.events!r}')
        if not isinstance(rules.max_length, int) or rules.max_length < 1:
            raise SourceError(f"{self.name}: [histories] max_length must be a whole number from 1 on")
        return rules

    def _table(self, kind: type, heading: str, table: dict[str, Any], **made: Any) -> Any:
        known = {f.name: f for f in fields(kind) if f.name != "files"}
        _only(self.name, f"[{heading}]", table, known.keys() | _FILE_KEYS)
        values = dict(made)
        for key in known.keys() & table.keys() - made.keys():
            default = known[key].default
            values[key] = _names(table[key]) if isinstance(default, tuple) else table[key]
            if not isinstance(values[key], type(default)):
                raise SourceError(f"{self.name}: [{heading}] {key} must be like {default!r}, not {table[key]!r}")
        return kind(**values)

    def _files(self, label: str, table: dict[str, Any]) -> Files:
        if "path" not in table:
            raise SourceError(f"{self.name}: [{label}] has no path")
        given = table["path"]
        groups = given if isinstance(given, dict) else {"": given}
        paths = {}
        for split, entry in groups.items():
            if split not in ("", "history", "train", "valid", "test"):
                raise SourceError(f"{self.name}: [{label}] path names the split '{split}'; use train, valid, test")
            listed = entry if isinstance(entry, list) else [entry]
            paths[split] = tuple(self._locate(label, str(path)) for path in listed)
        separator = str(table.get("separator", ""))
        return Files(
            paths=paths,
            format=self._choice(Format, table.get("format", "auto"), f"[{label}] format"),
            columns=_names(table.get("columns", ())),
            header=bool(table.get("header", "columns" not in table)),
            separator=separator,
        )

    def _locate(self, label: str, path: str) -> Path:
        if path.startswith("asset:"):
            return assets.locate(path.removeprefix("asset:"))
        located = (self.folder / path).resolve()
        if not located.exists():
            raise SourceError(f"{self.name}: [{label}] path {path} does not exist (looked for {located})")
        return located

    def _label(self, value: Any) -> Label:
        if value is None:
            return Label()
        if isinstance(value, str):
            return Label(column=value)
        if not isinstance(value, dict) or "column" not in value:
            raise SourceError(
                f'{self.name}: [events] label must be a column or {{ column = "rating", positive = ">= 4" }}'
            )
        _only(self.name, "[events] label", value, {"column", "positive"})
        match = _POSITIVE.fullmatch(str(value.get("positive", "== 1")))
        if match is None:
            raise SourceError(f"{self.name}: [events] positive must be like '>= 4', not {value['positive']!r}")
        operator = "==" if match[1] == "=" else match[1]
        return Label(column=str(value["column"]), operator=operator, threshold=float(match[2]))

    def _choice(self, kind: type[StrEnum], value: Any, label: str) -> Any:
        try:
            return kind(value)
        except ValueError as error:
            known = ", ".join(kind)
            raise SourceError(f"{self.name}: {label} must be one of {known}, not {value!r}") from error


def _names(value: Any) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(str(name) for name in value)


def _only(name: str, label: str, table: dict[str, Any], known: Any) -> None:
    for key in table:
        if key not in known:
            close = difflib.get_close_matches(key, sorted(known), n=1)
            hint = f"; did you mean '{close[0]}'?" if close else f"; it has {', '.join(sorted(known))}"
            raise SourceError(f"{name}: {label} has no key '{key}'{hint}")


def _source_folder() -> Any:
    return resources.files("pipeline") / "sources"
