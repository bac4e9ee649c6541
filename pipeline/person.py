"""Whose row is it: a person in the tables of a work folder, found by the columns that name people.

Ids may be short numbers that stand everywhere for something else, so rows are judged by columns: `user_id`, the
entity of a user-level row, the ids of prompts (`user:<id>@<seconds>`), and the JSON of rejected source rows.
"""

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

PROMPT_IDS = ("prompt_id", "representative_id")
"""A row that was read through somebody else's text holds what was said of that text: it goes with that person."""
KEY_COLUMNS = ("user_id", "level", "entity_id", *PROMPT_IDS, "reference_ids", "source_row", "text_id")
TELLING_CHARACTERS = 4
TELLING_DIGITS = 8
"""From so many characters (digits, where there is nothing else) on an id does not stand in files by chance."""
_TOKEN = rb"[0-9A-Za-z_]"


@dataclass(frozen=True)
class Person:
    """One user, and the texts that nobody but they ever wrote."""

    user_id: str
    text_ids: frozenset[str] = frozenset()
    """Of context_texts, such as queries, that stand in this person's events alone."""

    @property
    def is_telling(self) -> bool:
        """Whether the id can be searched for as a word: `u0013` can, `13` stands in every file for something else."""
        needed = TELLING_DIGITS if self.user_id.isdecimal() else TELLING_CHARACTERS
        return len(self.user_id) >= needed

    @cached_property
    def prompt_pattern(self) -> str:
        """Regular expression of this person's prompt ids, and of no other's whose id begins alike."""
        return f"^user:{re.escape(self.user_id)}@-?[0-9]+$"

    @cached_property
    def spellings(self) -> tuple[str, ...]:
        """The id plain, and as JSON writes it with and without escapes of other scripts."""
        written = (json.dumps(self.user_id, ensure_ascii=escaped)[1:-1] for escaped in (False, True))
        return tuple(dict.fromkeys((self.user_id, *written)))

    @cached_property
    def word(self) -> "re.Pattern[bytes]":
        """The id as a whole word in UTF-8 bytes, plain or as JSON escapes it."""
        either = b"|".join(re.escape(spelling.encode()) for spelling in self.spellings)
        return re.compile(rb"(?<!" + _TOKEN + rb")(?:" + either + rb")(?!" + _TOKEN + rb")")

    def may_stand_in(self, texts: pa.Array) -> pa.BooleanArray:
        """True for texts that hold the id in some spelling, as a word or within one."""
        either = pc.match_substring(texts, self.spellings[0])
        for spelling in self.spellings[1:]:
            either = pc.or_(either, pc.match_substring(texts, spelling))
        return pc.fill_null(either, False)

    def in_row(self, source_row: str) -> bool:
        """Whether a rejected source row, JSON or a bare line, names the person."""
        try:
            document = json.loads(source_row, parse_int=str, parse_float=str)
        except ValueError:
            document = {"line": source_row}
        if isinstance(document, dict) and document.keys() == {"line"}:
            return self.word.search(str(document["line"]).encode()) is not None
        return any(value.strip(" ") == self.user_id for value in _scalars(document))

    def mask(self, batch: pa.RecordBatch) -> pa.BooleanArray | None:
        """True for this person's rows; None where no column names people."""
        names = batch.schema.names
        found = [rule(self, batch) for wanted, rule in _RULES if all(name in names for name in wanted)]
        if not found:
            return None
        either = found[0]
        for mask in found[1:]:
            either = pc.or_(either, mask)
        return either


def key_columns(schema: pa.Schema) -> list[str]:
    """Those columns of a table that `Person.mask` looks at."""
    return [name for name in KEY_COLUMNS if name in schema.names]


def _of_user(person: Person, batch: Any) -> Any:
    return _equals(batch.column("user_id"), person.user_id)


def _of_entity(person: Person, batch: Any) -> Any:
    return pc.and_(_equals(batch.column("level"), "user"), _equals(batch.column("entity_id"), person.user_id))


def _of_prompts(name: str) -> Callable[[Person, Any], Any]:
    def rule(person: Person, batch: Any) -> Any:
        return pc.fill_null(pc.match_substring_regex(_texts(batch.column(name)), person.prompt_pattern), False)

    return rule


def _of_references(person: Person, batch: Any) -> Any:
    lists = batch.column("reference_ids").to_pylist()
    own = re.compile(person.prompt_pattern)
    return pa.array([any(own.match(reference) for reference in listed or ()) for listed in lists], pa.bool_())


def _of_source_row(person: Person, batch: Any) -> Any:
    rows = _texts(batch.column("source_row"))
    candidates = person.may_stand_in(rows)
    pairs = zip(candidates.to_pylist(), rows.to_pylist(), strict=True)
    return pa.array([is_candidate and person.in_row(row) for is_candidate, row in pairs], pa.bool_())


def _of_texts(person: Person, batch: Any) -> Any:
    return pc.is_in(_texts(batch.column("text_id")), value_set=pa.array(sorted(person.text_ids), pa.string()))


_RULES: tuple[tuple[tuple[str, ...], Callable[[Person, Any], Any]], ...] = (
    (("user_id",), _of_user),
    (("level", "entity_id"), _of_entity),
    *(((name,), _of_prompts(name)) for name in PROMPT_IDS),
    (("reference_ids",), _of_references),
    (("source_row",), _of_source_row),
    (("text_id",), _of_texts),
)


def _equals(column: Any, text: str) -> Any:
    return pc.fill_null(pc.equal(_texts(column), text), False)


def _texts(column: Any) -> Any:
    return column if pa.types.is_string(column.type) else column.cast(pa.string())


def _scalars(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for inner in value.values():
            yield from _scalars(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _scalars(inner)
    elif value is not None:
        yield str(value)
