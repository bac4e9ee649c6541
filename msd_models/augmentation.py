"""Copies of teacher rows that say the same in another way: phrases in another order, words replaced by others.

Phrases are shuffled within the explicit and within the implicit ones, never across. Words are replaced in the text and
in the phrases together, by pairs of a dictionary. Three things are never touched, since another word there is another
fact: numbers and the word after one (units, `5 stars`), attribute values (`brand: …`), and words written with a capital
inside a sentence (names). A copy in which an explicit phrase no longer stands in the text is refused.
"""

import random
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from msd_models.distillation_rows import Row
from pipeline.config import Student
from pipeline.errors import ConfigError
from pipeline.packaged import packaged

SHIPPED_DICTIONARY = "msd_models/templates/dictionary.toml"
UNIT_WORDS = """
mm cm m km kg g mg l ml cl oz lb lbs ft in inch inches w kw kwh v mah gb mb tb hz mhz ghz px fps kcal min mins minute
minutes hour hours day days week weeks month months year years pack packs piece pieces count star stars percent degree
degrees mile miles usd eur gbp rmb 元 克 公斤 斤 米 厘米 毫米 升 毫升 寸 英寸 瓦 伏 分钟 小时 天 年
"""
UNITS = frozenset(UNIT_WORDS.split())
"""Words that name an amount; a dictionary may not hold them."""
HAN = r"\u3400-\u9fff"
WORD = re.compile(rf"[^\W\d_{HAN}]+(?:['’][^\W\d_{HAN}]+)*")
SENTENCE_START = re.compile(r"(?:^|[\n.!?:;•\-–—\"“(])[\s\"“(]*$")
AFTER_NUMBER = re.compile(r"\d[\d.,]*[\s\-]*$")
APPLIED_SHARE = 0.7
"""Chance of each pair that fits: copies of one row differ from each other."""


@dataclass(frozen=True, kw_only=True)
class Dictionary:
    """Words that may stand for each other in the texts at hand."""

    pairs: tuple[tuple[str, str], ...]


def augment(rows: Sequence[Row], config: Student) -> list[Row]:
    """The rows, and behind each its copies; what a row's copies are depends on the seed and that row alone.

    Args:
        rows: of teacher_outputs; text, explicit_phrases and implicit_phrases are read.
        config: shuffle_phrases, substitute_words, dictionary, seed.

    Raises:
        ConfigError: negative counts, or a dictionary that is none.
    """
    if min(config.shuffle_phrases, config.substitute_words) < 0:
        raise ConfigError("[student] shuffle_phrases and substitute_words count copies; wanted 0 or more")
    dictionary = None
    if config.substitute_words:
        dictionary = read_dictionary(Path(config.dictionary) if config.dictionary else packaged(SHIPPED_DICTIONARY))
    return [made for row in rows for made in _with_copies(row, dictionary, config)]


def read_dictionary(path: Path) -> Dictionary:
    """The pairs of a TOML file: tables with a list `pairs` of two words each.

    Raises:
        ConfigError: no such file, no such pairs, a word with a digit in it, or a unit.
    """
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"dictionary {path.name} cannot be read as TOML: {error}") from error
    listed = [pair for table in document.values() if isinstance(table, dict) for pair in table.get("pairs", [])]
    if not listed:
        raise ConfigError(f'{path.name} holds no pairs; wanted a table like: [en] pairs = [["film", "movie"]]')
    return Dictionary(pairs=tuple(_checked(pair, path.name) for pair in listed))


def shuffled(row: Row, source: random.Random) -> Row | None:
    """A copy with each of its two lists in another order; None where no list has two phrases to exchange."""
    if max(len(row["explicit_phrases"]), len(row["implicit_phrases"])) < 2:
        return None
    copy = dict(row)
    for name in ("explicit_phrases", "implicit_phrases"):
        copy[name] = source.sample(row[name], len(row[name]))
    return copy


def substituted(row: Row, dictionary: Dictionary, source: random.Random) -> Row | None:
    """A copy with words replaced in text and phrases; None where no pair fits, or a phrase would lose its text."""
    phrases = [*row["explicit_phrases"], *row["implicit_phrases"]]
    protected = protected_words(row["text"])
    for phrase in phrases:
        protected |= _after_numbers(phrase) | _capitalised(phrase, anywhere=True)
    fitting = list(_fitting(row["text"], phrases, dictionary, protected))
    replaced = {old: new for old, new in fitting if source.random() < APPLIED_SHARE}
    if not replaced:
        return None
    copy = {
        **row,
        "text": _replace(row["text"], replaced),
        "explicit_phrases": [_replace(phrase, replaced) for phrase in row["explicit_phrases"]],
        "implicit_phrases": [_replace(phrase, replaced) for phrase in row["implicit_phrases"]],
    }
    before, after = row["explicit_phrases"], copy["explicit_phrases"]
    kept = (occurs(new, copy["text"]) for old, new in zip(before, after, strict=True) if occurs(old, row["text"]))
    return copy if all(kept) else None


def protected_words(text: str) -> set[str]:
    """Words of the text, in small letters, that must stay: amounts, attribute values, names."""
    kept = _after_numbers(text)
    for line in text.splitlines():
        _, colon, value = line.partition(": ")
        if colon:
            kept |= {word.group().casefold() for word in WORD.finditer(value)} | {value.strip().casefold()}
        kept |= _capitalised(line)
    return kept


def occurs(phrase: str, text: str) -> bool:
    """Whether the text states the phrase, whatever case and spacing."""
    return " ".join(phrase.split()).casefold() in " ".join(text.split()).casefold()


def _with_copies(row: Row, dictionary: Dictionary | None, config: Student) -> Iterator[Row]:
    yield row
    for number in range(config.shuffle_phrases):
        copy = shuffled(row, random.Random(f"shuffle\0{config.seed}\0{row['prompt_id']}\0{number}"))
        if copy:
            yield copy
    for number in range(config.substitute_words):
        assert dictionary is not None
        copy = substituted(row, dictionary, random.Random(f"words\0{config.seed}\0{row['prompt_id']}\0{number}"))
        if copy:
            yield copy


def _checked(pair: Any, name: str) -> tuple[str, str]:
    if not (isinstance(pair, list) and len(pair) == 2 and all(isinstance(word, str) for word in pair)):
        raise ConfigError(f"{name}: {pair!r} is no pair; wanted two words, such as ['film', 'movie']")
    words = [word.strip().casefold() for word in pair]
    wrong = [word for word in words if not word or any(c.isdigit() for c in word) or word in UNITS]
    if wrong or words[0] == words[1]:
        found = f"'{wrong[0]}'" if wrong else f"'{words[0]}' twice"
        raise ConfigError(f"{name}: {found} cannot be exchanged; wanted two words without digits, and no units")
    return words[0], words[1]


def _fitting(
    text: str, phrases: Sequence[str], dictionary: Dictionary, protected: set[str]
) -> Iterator[tuple[str, str]]:
    """(found, replacement) of pairs of which the text holds exactly one word, and neither is protected.

    A word is used by one pair only, and no pair may write what another one replaces.
    """
    used: set[str] = set()
    everything = "\n".join([text, *phrases])
    for first, second in dictionary.pairs:
        here = [word for word in (first, second) if _pattern(word).search(everything)]
        overlaps = any(word in other or other in word for word in (first, second) for other in used)
        if len(here) == 1 and not overlaps and not _is_protected((first, second), protected, everything):
            (old,) = here
            new = second if old == first else first
            if not _breaks_article(old, new, everything):
                used |= {first, second}
                yield old, new


def _is_protected(words: tuple[str, str], protected: set[str], everything: str) -> bool:
    """Chinese has no spaces: there a word is protected wherever it follows a number or lies in what is protected."""
    parts = {part for word in words for part in (word, *re.split(r"[\s-]", word))}
    han = [word for word in words if _is_han(word)]
    return (
        bool(parts & protected)
        or any(word in kept for word in han for kept in protected)
        or any(re.search(rf"\d[\s\-]*{re.escape(word)}", everything) for word in han)
    )


def _breaks_article(old: str, new: str, everything: str) -> bool:
    """Whether `a` or `an` stands before the word and would not fit the other one."""
    before = re.search(rf"\ban?\s+{re.escape(old)}", everything, re.IGNORECASE)
    return before is not None and (old[0] in "aeiou") != (new[0] in "aeiou")


def _pattern(word: str) -> re.Pattern[str]:
    """The word by itself; Chinese has no spaces, so a word of it is found anywhere."""
    if _is_han(word):
        return re.compile(re.escape(word))
    return re.compile(rf"(?<![^\W{HAN}]){re.escape(word)}(?![^\W{HAN}])", re.IGNORECASE)


def _replace(text: str, replaced: Mapping[str, str]) -> str:
    for old, new in replaced.items():
        text = _pattern(old).sub(lambda found, new=new: _cased(new, found.group()), text)  # type: ignore[misc]
    return text


def _cased(word: str, like: str) -> str:
    if like.isupper() and len(like) > 1:
        return word.upper()
    return word[0].upper() + word[1:] if like[:1].isupper() else word


def _after_numbers(text: str) -> set[str]:
    return {word.group().casefold() for word in WORD.finditer(text) if AFTER_NUMBER.search(text[: word.start()])}


def _capitalised(line: str, *, anywhere: bool = False) -> set[str]:
    """Words with a capital that do not start a sentence; in a phrase every word with a capital may be a name."""
    return {
        word.group().casefold()
        for word in WORD.finditer(line)
        if word.group() != word.group().lower() and (anywhere or not SENTENCE_START.search(line[: word.start()]))
    }


def _is_han(word: str) -> bool:
    return re.search(f"[{HAN}]", word) is not None
