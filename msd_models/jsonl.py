"""Rows of a JSON-lines file that people write: every mistake is named by file and line."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.errors import SourceError


def read_jsonl(path: Path, wanted: Mapping[str, type]) -> list[tuple[str, dict[str, Any]]]:
    """The rows, in order, each with its place (`gold.jsonl:7`) for messages; empty lines are passed over.

    Args:
        path: of a UTF-8 file with one JSON object a line.
        wanted: the keys each object has, with their types; others are let through.

    Raises:
        SourceError: no such file, a line that is no JSON object, or a key that is missing or of another type.
    """
    if not path.is_file():
        raise SourceError(f"{path} is not a file; wanted JSON lines with {', '.join(wanted)}")
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise SourceError(f"{path.name} is not UTF-8 text: {error.reason} at byte {error.start}") from error
    placed = [(f"{path.name}:{number}", line) for number, line in enumerate(lines, start=1) if line.strip()]
    return [(place, _parse(line, place, wanted)) for place, line in placed]


def phrases_of(row: Mapping[str, Any], key: str, place: str) -> list[str]:
    """The phrases under a key: texts that hold more than space.

    Raises:
        SourceError: what stands there is no list of such texts.
    """
    value = row.get(key)
    if not isinstance(value, list) or not all(isinstance(phrase, str) and phrase.strip() for phrase in value):
        raise SourceError(f"{place}: {key} must be a list of phrases, not {value!r}")
    return list(value)


def _parse(line: str, place: str, wanted: Mapping[str, type]) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise SourceError(f"{place}: not valid JSON: {error.msg} at column {error.colno}") from error
    if not isinstance(row, dict):
        raise SourceError(f"{place}: wanted an object with {', '.join(wanted)}, found {type(row).__name__}")
    for key, kind in wanted.items():
        if not isinstance(row.get(key), kind):
            raise SourceError(f"{place}: {key} must be of type {kind.__name__}, not {row.get(key)!r}")
    return row
