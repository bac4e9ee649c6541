"""Rows of a person in text files, told from the others' byte by byte: what is kept stays exactly as it was written.

Each function yields `(bytes, is_theirs)` pieces of a file. Rows are read as the readers of `spark_jobs` read them:
fields trimmed of spaces, quotes doubled inside quotes, line breaks allowed in quoted fields. A line that no reader can
take apart is the person's where one of its fields, or of a JSON line one of its words, is the id; what lies behind a
quote that never closes is nobody's, since that would be everybody else's rows.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

from pipeline.person import Person

BOM = b"\xef\xbb\xbf"
Piece = tuple[bytes, bool]


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How a delimited file is cut into fields."""

    separator: bytes
    has_header: bool
    is_quoted: bool
    """False for published formats in which a quote is a letter."""
    num_fields: int
    column: int
    """Which field holds the user's id."""


def delimited(file: BinaryIO, layout: Layout, person: Person) -> Iterator[Piece]:
    """The rows of a CSV or TSV file; its header is nobody's."""
    is_header = layout.has_header
    for record, fields in _records(file, layout):
        if is_header and record.strip(BOM + b"\r\n"):
            is_header = False
            yield record, False
        else:
            yield record, _is_theirs(record, fields, layout, person)


def json_lines(file: BinaryIO, column: str, person: Person) -> Iterator[Piece]:
    """The lines of a JSONL file."""
    for line in _lines(file):
        yield line, _is_theirs_json(line, column, person)


def json_document(file: BinaryIO, column: str, person: Person) -> Iterator[Piece]:
    """The elements of one array of objects, or of one object of objects whose keys are the column `key`.

    Raises:
        ValueError: the file is neither.
    """
    content = file.read()
    text = content.removeprefix(BOM).decode("utf-8")
    elements = _elements(text)
    if not elements:
        yield content, False
        return
    yield content[: len(content) - len(text.encode())] + text[: elements[0].start].encode(), False
    end, is_first = elements[0].start, True
    for element in elements:
        is_theirs = _names(element, column, person)
        start = element.start if is_first else end
        yield text[start : element.end].encode(), is_theirs
        end, is_first = element.end, is_first and is_theirs
    yield text[end:].encode(), False


@dataclass(frozen=True, kw_only=True)
class _Element:
    """One element of a JSON document and where it stands."""

    start: int
    end: int
    key: str | None
    value: Any


def _names(element: _Element, column: str, person: Person) -> bool:
    cells = element.value if isinstance(element.value, dict) else {}
    if element.key is not None:
        cells = {"key": element.key} | cells
    return _as_text(cells.get(column)) == person.user_id


def _lines(file: BinaryIO) -> Iterator[bytes]:
    r"""Lines with their ends: \n, \r\n or \r."""
    for line in file:
        yield from line.splitlines(keepends=True) if b"\r" in line else (line,)


def _ends_in_carriage_returns(file: BinaryIO) -> bool:
    r"""Whether the first line ends in \r alone, which the reader then takes for the end of every line."""
    first = file.readline()
    file.seek(0)
    return b"\r" in first.removesuffix(b"\n").removesuffix(b"\r")


def _records(file: BinaryIO, layout: Layout) -> Iterator[tuple[bytes, list[bytes] | None]]:
    """Lines, those inside quotes held together, each with its fields; None behind a quote that never closes."""
    held = b""
    for line in _lines(file) if _ends_in_carriage_returns(file) else file:
        held += line
        fields = _split(held, layout)
        if fields is not None:
            yield held, fields
            held = b""
    if held:
        yield held, None


def _split(record: bytes, layout: Layout) -> list[bytes] | None:
    """The fields as they are written; None where a quote is still open."""
    body = record.removeprefix(BOM).rstrip(b"\r\n")
    if not layout.is_quoted or b'"' not in body:
        return body.split(layout.separator)
    fields: list[bytes] = []
    position = 0
    while True:
        start = position
        if body.startswith(b'"', position):
            position = _behind_quotes(body, position + 1)
            if position < 0:
                return None
        position = body.find(layout.separator, position)
        if position < 0:
            return [*fields, body[start:]]
        fields.append(body[start:position])
        position += len(layout.separator)


def _behind_quotes(body: bytes, position: int) -> int:
    """Behind the quote that closes a field; -1 where there is none."""
    while True:
        position = body.find(b'"', position)
        if position < 0 or not body.startswith(b'""', position):
            return position if position < 0 else position + 1
        position += 2


def _is_theirs(record: bytes, fields: list[bytes] | None, layout: Layout, person: Person) -> bool:
    if fields is None:
        return False
    spelt = person.user_id.encode()
    if len(fields) == layout.num_fields:
        return _value(fields[layout.column], layout) == spelt
    is_one_line = len(record.splitlines()) == 1
    return is_one_line and spelt in [_value(field, layout) for field in fields]


def _value(field: bytes, layout: Layout) -> bytes:
    if layout.is_quoted and len(field) >= 2 and field.startswith(b'"') and field.endswith(b'"'):
        field = field[1:-1].replace(b'""', b'"')
    return field.strip(b" ")


def _is_theirs_json(line: bytes, column: str, person: Person) -> bool:
    if person.user_id.encode() not in line and b"\\" not in line:
        return False
    try:
        cells = json.loads(line.removeprefix(BOM), parse_int=str, parse_float=str)
    except ValueError:
        return person.word.search(line) is not None
    return isinstance(cells, dict) and _as_text(cells.get(column)) == person.user_id


def _as_text(value: Any) -> str | None:
    """A JSON value as the readers see it."""
    if value is None or isinstance(value, dict | list):
        return None
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value).strip(" ")


def _elements(text: str) -> list[_Element]:
    decoder = json.JSONDecoder(parse_int=str, parse_float=str)
    position = _skip(text, 0)
    is_object = text[position : position + 1] == "{"
    if not is_object and text[position : position + 1] != "[":
        raise ValueError("neither an array nor an object")
    position = _skip(text, position + 1)
    found: list[_Element] = []
    while text[position : position + 1] not in ("]", "}"):
        start, key = position, None
        if is_object:
            key, position = decoder.raw_decode(text, position)
            position = _skip(text, _behind(text, position, ":"))
        value, end = decoder.raw_decode(text, position)
        found.append(_Element(start=start, end=end, key=key, value=value))
        position = _skip(text, end)
        if text[position : position + 1] == ",":
            position = _skip(text, position + 1)
    return found


def _behind(text: str, position: int, letter: str) -> int:
    position = _skip(text, position)
    if text[position : position + 1] != letter:
        raise ValueError(f"'{letter}' was wanted at character {position}")
    return position + 1


def _skip(text: str, position: int) -> int:
    while position < len(text) and text[position] in " \t\r\n":
        position += 1
    return position
