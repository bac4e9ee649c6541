"""The prompt a teacher reads: the task, one worked example chosen for the row, and the row's text between marks.

The text comes last, so that rows with the same example share everything before it and a prefix cache serves them all.
"""

import json
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

MARKS = ("<<<", ">>>")
_WORD = re.compile(r"\w[\w'-]*")


@dataclass(frozen=True, kw_only=True)
class Reference:
    """A worked example, written by hand."""

    id: str
    level: str
    strata: tuple[str, ...]
    """Categories it stands for, in lower case."""
    text: str
    rationale: str
    explicit: tuple[str, ...]
    implicit: tuple[str, ...]
    words: frozenset[str] = field(repr=False)

    @property
    def answer(self) -> str:
        """The wanted completion, as JSON on one line."""
        answer = {"rationale": self.rationale, "explicit": self.explicit, "implicit": self.implicit}
        return json.dumps(answer, ensure_ascii=False)


def render(level: str, text: str, reference: Reference) -> str:
    """The whole prompt; text must have been made safe by the generator."""
    for mark in MARKS:
        text = text.replace(mark, " ".join(mark))
    return _templates().get_template(f"{level}.jinja").render(text=text, reference=reference).strip()


def choose_reference(row: Mapping[str, Any], references: Sequence[Reference]) -> Reference:
    """The example for a row: of its level and never the row itself; its stratum first, then the most common words.

    Args:
        row: of prompts.
        references: all examples, in file order, which breaks ties.
    """
    stratum = str(row["stratum"]).lower()
    words = _words(row["text"])
    first_line = row["text"].partition("\n")[0].strip().lower()
    allowed = [
        reference
        for reference in references
        if reference.level == row["level"] and reference.text.partition("\n")[0].strip().lower() != first_line
    ]
    assert allowed, f"no reference of level {row['level']}"
    return max(allowed, key=lambda reference: (stratum in reference.strata, len(words & reference.words)))


@cache
def references() -> tuple[Reference, ...]:
    """The examples that come with the project."""
    text = (resources.files("msd_models") / "templates" / "references.toml").read_text(encoding="utf-8")
    return tuple(_reference(entry) for entry in tomllib.loads(text)["reference"])


def _reference(entry: Mapping[str, Any]) -> Reference:
    lists = {name: tuple(entry[name]) for name in ("strata", "explicit", "implicit")}
    plain = {name: entry[name] for name in ("id", "level", "text", "rationale")}
    return Reference(**plain, **lists, words=_words(entry["text"]))


def _words(text: str) -> frozenset[str]:
    return frozenset(word.lower() for word in _WORD.findall(text))


@cache
def _templates() -> Environment:
    return Environment(
        loader=PackageLoader("msd_models", "templates"),
        undefined=StrictUndefined,
        autoescape=False,
        keep_trailing_newline=False,
    )
