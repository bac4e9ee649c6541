"""Which list a phrase belongs to, decided by the text and not by what the teacher says of it.

A phrase is explicit where the text states it: word for word after normalising, or by a part of the text that means the
same (cosine of sentence vectors). A claim that the text does not bear out becomes implicit where it is at least about
the text, and is dropped where it is not; a phrase offered as implicit that merely repeats the text becomes explicit.
"""

import re
import unicodedata
from collections import OrderedDict
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from msd_models.answers import Answer
from msd_models.phrases import Encode

MAX_PARTS = 24
"""Of a text, compared with its phrases."""
CACHED_TEXTS = 4096
"""Vectors held: parts of texts (genres, brands) and phrases come back in row after row."""
_HAN = re.compile(r"[\u3400-\u9fff]")
_BREAK = re.compile(r"[\n.!?;,|。！？；，、]+\s*|\s[-–—]\s")
_NOT_WORD = re.compile(r"[\W_]+")


@dataclass(frozen=True, kw_only=True)
class Grounded:
    """An answer's phrases in the lists where they belong."""

    explicit: tuple[str, ...]
    implicit: tuple[str, ...]
    moved_to_implicit: int
    moved_to_explicit: int
    unrelated: int
    """Dropped: far from all of the text, or copied from a worked example."""
    repeated: int
    """Dropped: the same words as another phrase after normalising."""


@dataclass(frozen=True, kw_only=True)
class Thresholds:
    """Cosines of a phrase with the part of the text that is nearest to it."""

    grounded: float
    """From here on the text bears out a phrase said to be explicit."""
    repeated: float
    """From here on a phrase said to be implicit repeats the text."""
    unrelated: float
    """Below, a phrase said to be explicit has nothing to do with the text."""


class Grounder:
    """Sorts phrases by the text they are about."""

    def __init__(self, encode: Encode, thresholds: Thresholds) -> None:
        """Takes the encoder, texts → unit vectors, and the cosines that decide."""
        self.encode = encode
        self.thresholds = thresholds
        self.vectors: OrderedDict[str, np.ndarray] = OrderedDict()

    def sort(self, answers: Sequence[tuple[str, Answer, Collection[str]]]) -> list[Grounded]:
        """The phrases of each (text, answer, phrases of the prompt's worked examples), in order."""
        parts = [_parts(text) for text, _, _ in answers]
        said = [phrase for _, answer, _ in answers for phrase in (*answer.explicit, *answer.implicit)]
        self._embed([*said, *(part for row in parts for part in row)])
        return [self._sort(*answer, row) for answer, row in zip(answers, parts, strict=True)]

    def _sort(self, text: str, answer: Answer, copied: Collection[str], parts: Sequence[str]) -> Grounded:
        body = normal(text)
        examples = {normal(phrase) for phrase in copied}
        lists: dict[str, dict[str, str]] = {"explicit": {}, "implicit": {}}
        counts = dict.fromkeys(("moved_to_implicit", "moved_to_explicit", "unrelated", "repeated"), 0)
        claims = [("explicit", phrase) for phrase in answer.explicit] + [("implicit", p) for p in answer.implicit]
        for claimed, phrase in claims:
            key = normal(phrase)
            cosine = self._nearness(phrase, parts)
            enough = self.thresholds.grounded if claimed == "explicit" else self.thresholds.repeated
            stated = occurs(key, body) or cosine >= enough
            if any(key in kept for kept in lists.values()):
                counts["repeated"] += 1
            elif not stated and (key in examples or (claimed == "explicit" and cosine < self.thresholds.unrelated)):
                counts["unrelated"] += 1
            else:
                kind = "explicit" if stated else "implicit"
                counts[f"moved_to_{kind}"] += kind != claimed
                lists[kind][key] = phrase
        return Grounded(
            explicit=tuple(lists["explicit"].values()), implicit=tuple(lists["implicit"].values()), **counts
        )

    def _nearness(self, phrase: str, parts: Sequence[str]) -> float:
        return max((float(self.vectors[phrase] @ self.vectors[part]) for part in parts), default=0.0)

    def _embed(self, texts: Sequence[str]) -> None:
        distinct = list(dict.fromkeys(texts))
        new = [text for text in distinct if text not in self.vectors]
        for text in distinct:
            if text in self.vectors:
                self.vectors.move_to_end(text)
        if new:
            # Copies: a row that is kept must not keep the whole batch it was made in.
            self.vectors.update((text, vector.copy()) for text, vector in zip(new, self.encode(new), strict=True))
        while len(self.vectors) > max(CACHED_TEXTS, len(distinct)):
            self.vectors.popitem(last=False)


def normal(text: str) -> str:
    """Lower case, compatibility forms folded, punctuation as single spaces."""
    return _NOT_WORD.sub(" ", unicodedata.normalize("NFKC", text).casefold()).strip()


def occurs(phrase: str, body: str) -> bool:
    """Whether a normalised phrase stands in a normalised text: as whole words; anywhere in a script without spaces."""
    if not phrase:
        return False
    return phrase in body if _HAN.search(phrase) else f" {phrase} " in f" {body} "


def _parts(text: str) -> list[str]:
    """The text's lines, sentences and list entries, and of an attribute also the value alone."""
    found: dict[str, None] = {}
    for part in _BREAK.split(text):
        for piece in (part, part.partition(":")[2]):
            if any(character.isalnum() for character in piece):
                found[piece.strip()] = None
    return list(found)[:MAX_PARTS]
