"""Worked examples for the teacher's prompt: hand-picked good outputs, chosen anew for each row.

Same category first, then the nearest by embedding (docs/methods.md), and never one that is the row itself or nearly:
the teacher would copy its answer. Texts are embedded only where more examples compete than the prompt has room for.
"""

import json
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from msd_models.phrases import Encode
from pipeline.errors import ConfigError
from pipeline.packaged import packaged

SHIPPED = "msd_models/templates/references.toml"
SAME_TEXT = 0.8
"""Jaccard similarity of words from which a text is the example's own."""
LEVELS = ("item", "user")
_WORD = re.compile(r"[^\W_]+")
_HAN = re.compile(r"[\u3400-\u9fff]")


@dataclass(frozen=True, kw_only=True)
class Reference:
    """A worked example, written by hand."""

    id: str
    level: str
    language: str
    strata: tuple[str, ...]
    """Categories it stands for, in lower case."""
    text: str
    rationale: str
    explicit: tuple[str, ...]
    implicit: tuple[str, ...]

    @property
    def answer(self) -> str:
        """The wanted completion, as JSON on one line."""
        answer = {"rationale": self.rationale, "explicit": self.explicit, "implicit": self.implicit}
        return json.dumps(answer, ensure_ascii=False, separators=(",", ":"))

    @property
    def phrases(self) -> tuple[str, ...]:
        """Explicit, then implicit ones."""
        return self.explicit + self.implicit


def read_references(path: str) -> tuple[Reference, ...]:
    """The examples of a TOML file, or those that come along where path is empty.

    Raises:
        ConfigError: no such file, an entry that lacks a key, two entries of one id, or a level without any.
    """
    file = Path(path).expanduser() if path else packaged(SHIPPED)
    try:
        entries = tomllib.loads(file.read_text(encoding="utf-8")).get("reference", [])
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"teacher_outputs.references: {file.name} cannot be read: {error}") from error
    found = tuple(_reference(entry, f"{file.name}: reference {n}") for n, entry in enumerate(entries, start=1))
    if len({reference.id for reference in found}) < len(found):
        raise ConfigError(f"{file.name}: two references have the same id; give each its own")
    for level in LEVELS:
        if not any(reference.level == level for reference in found):
            raise ConfigError(f"{file.name} has no reference of level {level}; wanted at least one [[reference]] of it")
    return found


class Examples:
    """Chooses references for rows."""

    def __init__(self, references: Sequence[Reference], num_chosen: int, encode: Encode) -> None:
        """Takes the examples in file order, which breaks ties.

        Args:
            references: of all levels and languages.
            num_chosen: for each row.
            encode: texts → unit vectors.
        """
        self.references = references
        self.num_chosen = num_chosen
        self.encode = encode
        self.words = {reference.id: _words(reference.text) for reference in references}
        self.vectors: dict[str, np.ndarray] = {}

    def choose(self, rows: Sequence[Mapping[str, Any]], languages: Sequence[str]) -> list[tuple[Reference, ...]]:
        """The examples of each row, the best last: it stands next to the question.

        Args:
            rows: with level, stratum and teacher_text.
            languages: of each row's prompt; where no example is in it, one in another language serves.
        """
        fitting = [self._fitting(row, language) for row, language in zip(rows, languages, strict=True)]
        contested = [n for n, (sure, rivals) in enumerate(fitting) if len(sure) < self.num_chosen < len(sure + rivals)]
        texts = [rows[number]["teacher_text"] for number in contested]
        vectors = dict(zip(contested, self.encode(texts), strict=True)) if texts else {}
        chosen = []
        for number, (sure, rivals) in enumerate(fitting):
            room = self.num_chosen - len(sure)
            if number in vectors:
                rivals = sorted(rivals, key=lambda rival: -float(vectors[number] @ self._vector(rival)))
            chosen.append(tuple(reversed([*sure, *rivals[: max(room, 0)]])))
        return chosen

    def _fitting(self, row: Mapping[str, Any], language: str) -> tuple[list[Reference], list[Reference]]:
        """(those in for sure, those that compete for what room is left)."""
        words = _words(row["teacher_text"])
        allowed = [
            reference
            for reference in self.references
            if reference.level == row["level"]
            and _title(reference.text) != _title(row["teacher_text"])
            and _jaccard(words, self.words[reference.id]) < SAME_TEXT
        ]
        spoken = [reference for reference in allowed if reference.language == language] or allowed
        stratum = str(row["stratum"]).lower()
        same = [reference for reference in spoken if stratum in reference.strata]
        if len(same) >= self.num_chosen:
            return ([], same) if len(same) > self.num_chosen else (same, [])
        return same, [reference for reference in spoken if reference not in same]

    def _vector(self, reference: Reference) -> np.ndarray:
        if reference.id not in self.vectors:
            vectors = self.encode([one.text for one in self.references])
            self.vectors = {one.id: vector for one, vector in zip(self.references, vectors, strict=True)}
        return self.vectors[reference.id]


def _reference(entry: Mapping[str, Any], where: str) -> Reference:
    texts: dict[str, Any] = {key: entry.get(key) for key in ("id", "level", "text", "rationale")}
    lists: dict[str, Any] = {
        key: entry.get(key, [] if key == "strata" else None) for key in ("strata", "explicit", "implicit")
    }
    wrong = [key for key, value in texts.items() if not isinstance(value, str) or not value.strip()]
    wrong += [key for key, value in lists.items() if not _is_text_list(value)]
    if wrong or texts["level"] not in LEVELS:
        raise ConfigError(
            f"{where} has no usable {', '.join(wrong) or 'level'}; wanted id, level (item or user), text and rationale"
            " as texts, explicit, implicit and strata as lists of texts"
        )
    given: dict[str, Any] = {key: tuple(value) for key, value in lists.items()}
    given["strata"] = tuple(stratum.lower() for stratum in given["strata"])
    return Reference(language=str(entry.get("language", "en")), **texts, **given)


def _is_text_list(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(one, str) for one in value)


def _title(text: str) -> str:
    return text.partition("\n")[0].strip().casefold()


def _words(text: str) -> frozenset[str]:
    """Words of spaced scripts and single Han characters."""
    return frozenset(_WORD.findall(_HAN.sub(r" \g<0> ", text).casefold()))


def _jaccard(one: frozenset[str], other: frozenset[str]) -> float:
    return len(one & other) / len(one | other) if one | other else 1.0
