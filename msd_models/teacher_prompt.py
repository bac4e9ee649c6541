"""The prompt a teacher reads: one worked example chosen for the row as a finished exchange, then the row's own text.

Both questions are made by one template. A small model copies an example that stands in its own question far more often
than one that has been answered already. Rows with the same example share all of it, and a prefix cache serves them.
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

from msd_models.generators import Prompt

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
        return json.dumps(answer, ensure_ascii=False, separators=(",", ":"))


def make_prompt(level: str, text: str, reference: Reference) -> Prompt:
    """The prompt for a text that the generator has made safe; the marks around it cannot be closed from inside."""
    for mark in MARKS:
        text = text.replace(mark, " ".join(mark))
    template = _templates().get_template(f"{level}.jinja")
    return Prompt(
        example_question=template.render(text=reference.text),
        example_answer=reference.answer,
        question=template.render(text=text),
    )


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
    return Reference(
        id=entry["id"],
        level=entry["level"],
        strata=tuple(entry["strata"]),
        text=entry["text"],
        rationale=entry["rationale"],
        explicit=tuple(entry["explicit"]),
        implicit=tuple(entry["implicit"]),
        words=_words(entry["text"]),
    )


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
