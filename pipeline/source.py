"""The description of a user's files: a TOML document, parsed and checked before any of them is read.

Only the shape of the document and the existence of its files are checked here; columns and types are the business of
`spark_jobs`, which reads them. `docs/sources.md` shows every key.
"""

import difflib
import re
import tomllib
from dataclasses import fields
from enum import StrEnum
from importlib import resources
from pathlib import Path
from typing import Any

from pipeline import assets
from pipeline.errors import SourceError
from pipeline.source_tables import (
    ENDINGS,
    EventsTable,
    Files,
    Format,
    HistoryRules,
    ItemsTable,
    Label,
    Labels,
    Source,
    SplitBy,
    UsersTable,
)

__all__ = [
    "ENDINGS",
    "EventsTable",
    "Files",
    "Format",
    "HistoryRules",
    "ItemsTable",
    "Label",
    "Labels",
    "Source",
    "SplitBy",
    "UsersTable",
    "built_in_sources",
    "load_source",
    "parse_source",
]


def built_in_sources() -> list[str]:
    """Names that need no file: `movielens-100k`, …; `mind` and `kdd-cup-2012` take a folder, `mind:FOLDER`."""
    return sorted(path.name[:-5] for path in _source_folder().iterdir() if path.name.endswith(".toml"))


def load_source(reference: str, date: str = "") -> Source:
    """Reads and checks a source.

    Args:
        reference: a built-in name, `name:FOLDER` for a built-in format, the path of a TOML file, or `FILE.toml:FOLDER`
            for one that writes `{folder}`; without a folder that is the file's own.
        date: YYYY-MM-DD, what `{date}` in it stands for; empty where the call names no day.

    Raises:
        SourceError: an unknown name or key, a file that is not there, or a `{date}` and no day.
    """
    name, colon, folder = reference.partition(":")
    if name in built_in_sources() and not Path(reference).is_file():
        text = (_source_folder() / f"{name}.toml").read_text(encoding="utf-8")
        if "{folder}" in text and not (colon and folder):
            raise SourceError(f"source {name} reads files of yours: write --source {name}:FOLDER")
        return parse_source(name, _with_date(name, _with_folder(text, Path(folder)), date), Path.cwd())
    path = Path(reference)
    if not path.is_file() and name.endswith(".toml"):
        path = Path(name)
    if not path.is_file():
        known = ", ".join(built_in_sources())
        raise SourceError(f"source {reference} is neither a file nor a built-in name ({known})")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise SourceError(f"{path.name} is not UTF-8 text: {error.reason} at byte {error.start}") from error
    if folder and path == Path(name) and not Path(folder).is_dir():
        raise SourceError(f"source {reference}: there is no folder {folder}")
    home = path.resolve().parent
    text = _with_folder(text, Path(folder) if path == Path(name) and folder else home)
    return parse_source(path.stem, _with_date(path.name, text, date), home)


def _with_date(name: str, text: str, date: str) -> str:
    if "{date}" in text and not date:
        raise SourceError(f"{name} writes {{date}}, a folder or file a day: say which with --date YYYY-MM-DD")
    return text.replace("{date}", date)


def _with_folder(text: str, folder: Path) -> str:
    escaped = str(folder.resolve()).replace("\\", "\\\\").replace('"', '\\"')
    return text.replace("{folder}", escaped)


def parse_source(name: str, text: str, folder: Path) -> Source:
    """Parses the TOML of a source; relative paths are taken from folder."""
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise SourceError(f"{name}: not valid TOML: {error}") from error
    _only(name, "the file", document, {"items", "events", "users", "labels", "histories"})
    for table in ("items", "events"):
        if table not in document:
            raise SourceError(f"{name}: the table [{table}] is missing")
    for table, content in document.items():
        if not isinstance(content, dict):
            raise SourceError(f"{name}: {table} must be a table: write [{table}] and its keys below it")
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
        split, negatives = self._value("[labels]", table, "split", {}), self._value("[labels]", table, "negatives", {})
        _only(self.name, "[labels] split", split, {"by", "fractions"})
        _only(self.name, "[labels] negatives", negatives, {"per_positive", "by"})
        fractions = self._value("[labels] split", split, "fractions", [0.8, 0.1, 0.1])
        if not _are_shares(fractions):
            raise SourceError(f"{self.name}: [labels] fractions must be three shares that add up to 1, not {fractions}")
        by = self._value("[labels] negatives", negatives, "by", "popularity")
        if by not in ("popularity", "uniform"):
            raise SourceError(f"{self.name}: [labels] negatives by must be popularity or uniform, not '{by}'")
        return Labels(
            split_by=self._choice(SplitBy, split.get("by", "time"), "[labels] split by"),
            fractions=(float(fractions[0]), float(fractions[1]), float(fractions[2])),
            min_history=self._count("[labels]", table, "min_history", 0),
            negatives_per_positive=self._count("[labels] negatives", negatives, "per_positive", 0),
            negatives_by=by,
        )

    def histories(self, table: dict[str, Any]) -> HistoryRules:
        _only(self.name, "[histories]", table, {"events", "max_length"})
        events = table.get("events", "positive")
        if events not in ("positive", "all"):
            raise SourceError(f'{self.name}: [histories] events must be "positive" or "all", not {events!r}')
        max_length = self._count("[histories]", table, "max_length", 50)
        if max_length < 1:
            raise SourceError(f"{self.name}: [histories] max_length must be a whole number from 1 on")
        return HistoryRules(events=events, max_length=max_length)

    def _table(self, kind: type, heading: str, table: dict[str, Any], **made: Any) -> Any:
        known = {f.name: f for f in fields(kind) if f.name != "files"}
        _only(self.name, f"[{heading}]", table, known.keys() | _FILE_KEYS)
        values = dict(made)
        for key in known.keys() & table.keys() - made.keys():
            default = known[key].default
            if isinstance(default, tuple):
                values[key] = self._names(f"[{heading}]", table, key)
            else:
                values[key] = self._value(f"[{heading}]", table, key, default)
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
            if not listed or not all(isinstance(path, str) and path.isprintable() for path in listed):
                raise SourceError(f"{self.name}: [{label}] path must be a text or a list of texts, not {entry!r}")
            paths[split] = tuple(self._locate(label, path) for path in listed)
        if not paths:
            raise SourceError(f"{self.name}: [{label}] path names no file")
        return Files(
            paths=paths,
            format=self._choice(Format, table.get("format", "auto"), f"[{label}] format"),
            columns=self._names(f"[{label}]", table, "columns"),
            header=self._value(f"[{label}]", table, "header", "columns" not in table),
            separator=self._value(f"[{label}]", table, "separator", ""),
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
        column = self._value("[events] label", value, "column", "")
        return Label(column=column, operator=operator, threshold=float(match[2]))

    def _value(self, label: str, table: dict[str, Any], key: str, default: Any) -> Any:
        """The key's value, which must be of its default's type."""
        value = table.get(key, default)
        if type(value) is not type(default):
            raise SourceError(f"{self.name}: {label} {key} must be {_KINDS[type(default)]}, not {value!r}")
        return value

    def _count(self, label: str, table: dict[str, Any], key: str, default: int) -> int:
        value: int = self._value(label, table, key, default)
        if value < 0:
            raise SourceError(f"{self.name}: {label} {key} must not be negative, not {value}")
        return value

    def _names(self, label: str, table: dict[str, Any], key: str) -> tuple[str, ...]:
        """One column name or a list of them."""
        value = table.get(key, [])
        listed = [value] if isinstance(value, str) else value
        if not isinstance(listed, list) or not all(isinstance(name, str) for name in listed):
            raise SourceError(f"{self.name}: {label} {key} must be a column name or a list of them, not {value!r}")
        return tuple(listed)

    def _choice(self, kind: type[StrEnum], value: Any, label: str) -> Any:
        try:
            return kind(value)
        except ValueError as error:
            known = ", ".join(kind)
            raise SourceError(f"{self.name}: {label} must be one of {known}, not {value!r}") from error


_KINDS = {int: "a whole number", str: "a text", bool: "true or false", list: "a list", dict: "a table"}


def _are_shares(values: list[Any]) -> bool:
    are_numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
    return are_numbers and len(values) == 3 and min(values) >= 0 and abs(sum(values) - 1) <= 1e-6


def _only(name: str, label: str, table: dict[str, Any], known: Any) -> None:
    for key in table:
        if key not in known:
            close = difflib.get_close_matches(key, sorted(known), n=1)
            hint = f"; did you mean '{close[0]}'?" if close else f"; it has {', '.join(sorted(known))}"
            raise SourceError(f"{name}: {label} has no key '{key}'{hint}")


def _source_folder() -> Any:
    return resources.files("pipeline") / "sources"
