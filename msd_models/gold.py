"""Gold phrases: what a person says should be said of a text. Teacher and student are measured against the same ones.

A gold file is JSON lines of {text, level, explicit, implicit}. `msd gold` makes one from annotated candidates; one for
MovieLens titles comes along in `measures/gold/`, named after its source.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from msd_models.jsonl import phrases_of, read_jsonl
from msd_models.phrase_scores import Phrases
from pipeline.config import Student, TeacherQuality
from pipeline.errors import SourceError
from pipeline.packaged import packaged

SHIPPED_GOLD = "msd_models/measures/gold"
LEVELS = ("item", "user")
Row = Mapping[str, Any]
"""A row with `level` and `text`, as of teacher_outputs."""


@dataclass(frozen=True, kw_only=True)
class GoldRow:
    """The phrases wanted of one text."""

    text: str
    """The item's text, of which the first line is its title, or the user's whole text."""
    level: str
    explicit: list[str]
    implicit: list[str]

    @property
    def phrases(self) -> Phrases:
        """Both lists, as `phrase_scores` takes them."""
        return self.explicit, self.implicit


def gold_for(config: Student | TeacherQuality, source_name: str | None) -> list[GoldRow]:
    """The gold rows of the settings, else those that come along with the source of that name; empty: none.

    A stage gets the name by taking `source` (pipeline.source_tables.Source) as a parameter and passing `source.name`.
    """
    if config.gold:
        return read_gold(Path(config.gold))
    shipped = packaged(SHIPPED_GOLD) / f"{source_name}.jsonl"
    return read_gold(shipped) if shipped.is_file() else []


def read_gold(path: Path) -> list[GoldRow]:
    """The rows of a gold file.

    Raises:
        SourceError: the file or a line of it is not what it should be; the message names the line.
    """
    rows = []
    for place, row in read_jsonl(path, {"text": str, "level": str}):
        if row["level"] not in LEVELS or not row["text"].strip():
            raise SourceError(f"{place}: wanted a text and level item or user, found {row['level']!r} {row['text']!r}")
        lists = [phrases_of(row, key, place) for key in ("explicit", "implicit")]
        rows.append(GoldRow(text=row["text"], level=row["level"], explicit=lists[0], implicit=lists[1]))
    return rows


def match_gold(rows: Iterable[Row], gold: Sequence[GoldRow]) -> list[tuple[Row, GoldRow]]:
    """Each row that gold phrases are known for, beside them; a title that two gold rows name is nobody's.

    Items are found by the first line of their text, which is the title, since attributes differ between exports of the
    same catalogue; users by their whole text.
    """
    known: dict[tuple[str, str], list[GoldRow]] = {}
    for wanted in gold:
        known.setdefault(text_key(wanted.level, wanted.text), []).append(wanted)
    pairs = ((row, known.get(text_key(row["level"], row["text"]), [])) for row in rows)
    return [(row, found[0]) for row, found in pairs if len(found) == 1]


def text_key(level: str, text: str) -> tuple[str, str]:
    """What a gold row and a row of the catalogue have in common when they are about the same thing."""
    named = text.split("\n", 1)[0] if level == "item" else text
    return level, " ".join(named.split()).casefold()
