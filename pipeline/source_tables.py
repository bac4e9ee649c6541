"""The tables of a source as dataclasses: what the TOML keys mean and what they are when left out."""

from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any


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


ENDINGS = {
    ".csv": Format.CSV,
    ".tsv": Format.TSV,
    ".txt": Format.TSV,
    ".jsonl": Format.JSONL,
    ".ndjson": Format.JSONL,
    ".json": Format.JSON,
    ".parquet": Format.PARQUET,
    ".pq": Format.PARQUET,
}
"""What `auto` takes a file for: whoever reads a source, and whoever takes a person out of it."""


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
