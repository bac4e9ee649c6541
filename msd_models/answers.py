"""The teacher's typed answer: the JSON schema a model is held to, and what a completion says or why it is no use.

The schema puts the rationale first, so that phrases are written after the reasons for them. Its bounds keep a small
model from rambling: one given free text repeats itself until the token limit, and what is cut in the middle is lost.
"""

import json
import re
from dataclasses import dataclass
from typing import Any

from msd_models.generators import Completion
from msd_models.phrases import clean_phrases

MAX_RATIONALE_CHARACTERS = 90
MAX_PHRASES = 3
"""In each list; with these bounds nearly every completion of a small model ends within 112 tokens."""
_WORD = r"[^\s\"\\.,;\[\]{}]"
_PHRASES = {
    "type": "array",
    "minItems": 1,
    "maxItems": MAX_PHRASES,
    "items": {"type": "string", "pattern": rf"^{_WORD}{{2,20}}( {_WORD}{{1,16}}){{0,3}}$"},
}
"""Up to four words: a bound in characters alone ends phrases in the middle of a word."""
JSON_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "rationale": {"type": "string", "minLength": 10, "maxLength": MAX_RATIONALE_CHARACTERS},
        "explicit": _PHRASES,
        "implicit": _PHRASES,
    },
    "required": ["rationale", "explicit", "implicit"],
    "additionalProperties": False,
}

EMPTY = "empty"
TRUNCATED = "truncated"
UNPARSABLE = "unparsable"
REFUSED = "refused"
NO_PHRASES = "no phrases"
UNGROUNDED = "ungrounded"

_REFUSAL = re.compile(
    r"\b(?:i(?:'m| am) (?:sorry|unable|not able)|i (?:cannot|can't|can not|won't)|as an ai|i apologi[sz]e)\b"
    r"|(?:抱歉|对不起|无法(?:回答|提供|完成)|作为(?:一个|一名)?(?:AI|人工智能))",
    re.IGNORECASE,
)


@dataclass(frozen=True, kw_only=True)
class Answer:
    """A completion understood; reason is None where it can be used."""

    rationale: str = ""
    explicit: tuple[str, ...] = ()
    implicit: tuple[str, ...] = ()
    repeated: int = 0
    """Phrases said more than once and kept once."""
    reason: str | None = None


def parse_answer(completion: Completion) -> Answer:
    """What a completion says, or why it cannot be used: empty, truncated, unparsable, refused or no phrases."""
    if completion.error is not None:
        return Answer(reason=completion.error)
    if not completion.text.strip():
        return Answer(reason=EMPTY)
    found = _json_object(completion.text)
    if found is None:
        refused = _REFUSAL.search(completion.text)
        return Answer(reason=REFUSED if refused else UNPARSABLE if completion.is_complete else TRUNCATED)
    said = {kind: _texts(found.get(kind)) for kind in ("explicit", "implicit")}
    explicit = clean_phrases(said["explicit"])
    before = {phrase.casefold() for phrase in explicit}
    implicit = [phrase for phrase in clean_phrases(said["implicit"]) if phrase.casefold() not in before]
    rationale = found["rationale"].strip() if isinstance(found.get("rationale"), str) else ""
    if _REFUSAL.search(rationale):
        return Answer(reason=REFUSED)
    if not explicit and not implicit:
        return Answer(reason=NO_PHRASES)
    usable = sum(len(clean_phrases([phrase])) for phrases in said.values() for phrase in phrases)
    return Answer(
        rationale=rationale,
        explicit=tuple(explicit),
        implicit=tuple(implicit),
        repeated=usable - len(explicit) - len(implicit),
    )


def _json_object(text: str) -> dict[str, Any] | None:
    """The object between the first opening and the last closing brace; models like to talk around it."""
    start, end = text.find("{"), text.rfind("}")
    if start < 0 or end < start:
        return None
    try:
        found = json.loads(text[start : end + 1], strict=False)
    except (json.JSONDecodeError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _texts(value: object) -> list[str]:
    return [one for one in value if isinstance(one, str)] if isinstance(value, list) else []
