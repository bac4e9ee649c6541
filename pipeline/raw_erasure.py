"""A person's rows in the source's own files: found, and taken out of a copy that then replaces the file.

Files that the project brings by itself (built-in data in the cache) are shared and public: they are never rewritten,
the list of erased people keeps their rows out.
"""

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.assets import cache_folder
from pipeline.errors import SourceError
from pipeline.parquet_rows import put_in_place, rewrite
from pipeline.person import Person
from pipeline.raw_rows import Layout, Piece, delimited, json_document, json_lines
from pipeline.source import ENDINGS, Files, Format, Source

PUBLISHED = {
    ("events", Format.MIND): {"train/behaviors.tsv": (5, 1), "dev/behaviors.tsv": (5, 1)},
    ("events", Format.KDD_CUP_2012): {"training.txt": (12, 11)},
    ("users", Format.KDD_CUP_2012): {"userid_profile.txt": (3, 0)},
}
"""Published formats: file → (fields of a line, which one is the user)."""


@dataclass(frozen=True, kw_only=True)
class RawFile:
    """One file of a table that names users."""

    path: Path
    format: Format
    column: str
    layout: Layout | None = None
    """Of delimited files."""

    @property
    def is_shared(self) -> bool:
        """Built-in data in the cache: public, and everybody's."""
        return cache_folder().resolve() in self.path.resolve().parents

    def pieces(self, person: Person) -> Iterator[Piece]:
        """The parts of a text file, and which are the person's.

        Raises:
            SourceError: the file is not of its format.
        """
        with self.path.open("rb") as file:
            if self.layout is not None:
                yield from delimited(file, self.layout, person)
            elif self.format is Format.JSONL:
                yield from json_lines(file, self.column, person)
            else:
                try:
                    yield from json_document(file, self.column, person)
                except ValueError as error:
                    told = f"{self.path.name} is not valid JSON: {error}; mend it, then: msd erase once more"
                    raise SourceError(told) from error


def raw_files(source: Source) -> list[RawFile]:
    """Every file of the source that names users: those of [events] and of [users].

    Raises:
        SourceError: a file has no known format or lacks the user's column.
    """
    found = list(_files_of("events", source.events.files, source.events.user))
    if source.users is not None:
        found += _files_of("users", source.users.files, source.users.id)
    return list({(each.path, each.column): each for each in found}.values())


def count_rows(file: RawFile, person: Person) -> int:
    """How many rows of a file are the person's."""
    if file.format is not Format.PARQUET:
        return sum(is_theirs for _, is_theirs in file.pieces(person))
    with pq.ParquetFile(file.path) as opened:
        batches = opened.iter_batches(columns=[file.column])
        return sum(pc.sum(_theirs(batch.column(0), person)).as_py() or 0 for batch in batches)


def take_out(file: RawFile, person: Person) -> None:
    """Replaces the file by one without the person's rows; every other line keeps its bytes."""
    if file.format is Format.PARQUET:
        rewrite(file.path, lambda table: table.filter(pc.invert(_theirs(table.column(file.column), person))))
        return
    aside = file.path.with_name(f".{file.path.name}.erasing")
    with aside.open("wb") as written:
        for content, is_theirs in file.pieces(person):
            if not is_theirs:
                written.write(content)
    put_in_place(aside, file.path)


def _theirs(column: pa.Array | pa.ChunkedArray, person: Person) -> pa.Array | pa.ChunkedArray:
    texts = pc.utf8_trim(column.cast(pa.string()), characters=" ")
    return pc.fill_null(pc.equal(texts, person.user_id), False)


def _files_of(table: str, files: Files, column: str) -> Iterator[RawFile]:
    for given in files.all_paths:
        published = PUBLISHED.get((table, files.format))
        if published is not None:
            for name, (num_fields, place) in published.items():
                layout = Layout(separator=b"\t", has_header=False, is_quoted=False, num_fields=num_fields, column=place)
                if (given / name).is_file():
                    yield RawFile(path=given / name, format=Format.TSV, column=column, layout=layout)
            continue
        for path in _shown_files(given):
            # A link is followed: replacing it would leave the file it names as it is.
            yield _raw_file(table, files, path.resolve(), column)


def _shown_files(given: Path) -> list[Path]:
    """The file, or what the readers read of a folder: files of one ending, nothing hidden."""
    if given.is_file():
        return [given]
    inner = (path for path in sorted(given.rglob("*")) if path.is_file())
    shown = [path for path in inner if not any(part.startswith((".", "_")) for part in path.relative_to(given).parts)]
    endings = [path.suffix for path in shown if path.suffix in ENDINGS] or [path.suffix for path in shown]
    return [path for path in shown if path.suffix == endings[0]]


def _raw_file(table: str, files: Files, path: Path, column: str) -> RawFile:
    kind = ENDINGS.get(path.suffix, Format.AUTO) if files.format is Format.AUTO else files.format
    if kind is Format.AUTO:
        raise SourceError(
            f"[{table}] {path.name}: the ending '{path.suffix}' says no format; write format beside its path"
        )
    if kind not in (Format.CSV, Format.TSV):
        return RawFile(path=path, format=kind, column=column)
    separator = files.separator or ("\t" if kind is Format.TSV else ",")
    names = list(files.columns) or _header(path, separator)
    if column not in names:
        raise SourceError(f"[{table}] {path.name} has no column '{column}'; it has {', '.join(names)}")
    layout = Layout(
        separator=separator.encode(),
        has_header=files.header,
        is_quoted=True,
        num_fields=len(names),
        column=names.index(column),
    )
    return RawFile(path=path, format=kind, column=column, layout=layout)


def _header(path: Path, separator: str) -> list[str]:
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        first = next((row for row in csv.reader(file, delimiter=separator) if row), [])
    return [name.strip() for name in first]
