"""A small world from a seed, in which only hidden traits decide what users click, and the best possible AUC is known.

Titles are made-up words. One word of each title belongs to a trait ("a guilt-free treat"), but no surface word says so;
category, maker and number are noise. A user loves two traits, and has a motto with a word of the first: to whoever can
read it, it tells half of what they love from the first click on; their history tells the rest in time. Item ids are too
rarely shown to learn much from, so that a model without outside knowledge stays near chance, and a model that knows
each item's trait can come near the ceiling: the AUC of the true probabilities, kept in `truth.parquet`. `teacher.jsonl`
is what a teacher who knows the world says.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

VERSION = 2
"""Raised when the world changes; part of its cache folder's name."""

TRAITS: tuple[tuple[str, str], ...] = (
    ("guilt-free treat", "light indulgence"),
    ("heist thrill", "clever crew"),
    ("rainy-day comfort", "slow evening"),
    ("nostalgia trip", "childhood summer"),
    ("quiet focus", "deep work"),
    ("party starter", "loud laughter"),
)
CATEGORIES = ("amber", "basalt", "cobalt", "dune")
MAKERS = ("north works", "south works", "east works")
REGIONS = ("hill", "coast", "plain")
START_SECONDS = 1_700_000_000
DAYS = 60


@dataclass(frozen=True, kw_only=True)
class Size:
    """How large the world is."""

    num_items: int = 900
    num_users: int = 480
    events_per_user: int = 50
    words_per_trait: int = 12
    active_days: int = 0
    """Above 0 users come at moments of their own and act for so many days; 0: all act from the first day on."""
    seed: int = 7


def write(folder: Path, size: Size = Size()) -> None:
    """Writes items, users, events, teacher.jsonl and truth.parquet into folder."""
    rng = np.random.default_rng(size.seed)
    words = _made_up_words(rng, size.words_per_trait * len(TRAITS) + 60)
    trait_words = np.array(words[: size.words_per_trait * len(TRAITS)]).reshape(len(TRAITS), -1)
    filler_words = words[size.words_per_trait * len(TRAITS) :]

    trait_N = rng.integers(0, len(TRAITS), size.num_items)
    word_N = rng.integers(0, size.words_per_trait, size.num_items)
    trait_word_N = trait_words[trait_N, word_N]
    filler_N = rng.choice(filler_words, size.num_items)
    titles = [f"{a} {b} {i:04d}" for i, (a, b) in enumerate(zip(trait_word_N, filler_N, strict=True))]
    filler_U = rng.choice(filler_words, size.num_users)
    loves_U2 = np.argsort(rng.random((size.num_users, len(TRAITS))), axis=1)[:, :2]
    motto_word_U = trait_words[loves_U2[:, 0], rng.integers(0, size.words_per_trait, size.num_users)]
    mottos = [f"{a} {b} u{u:04d}" for u, (a, b) in enumerate(zip(motto_word_U, filler_U, strict=True))]
    _write_items(folder, rng, titles)
    _write_teacher(folder, [*titles, *mottos], [*trait_N, *loves_U2[:, 0]])
    _write_users(folder, rng, mottos)
    _write_events(folder, rng, size, trait_N, loves_U2)


def _made_up_words(rng: np.random.Generator, count: int) -> list[str]:
    onsets, vowels, codas = list("bdfgklmnprstvz"), list("aeiou"), ["l", "n", "r", "x", "sk", "m"]
    words: dict[str, None] = {}
    while len(words) < count:
        syllables = [str(rng.choice(onsets)) + str(rng.choice(vowels)) for _ in range(2)]
        words["".join(syllables).capitalize() + str(rng.choice(codas))] = None
    return list(words)


def _write_items(folder: Path, rng: np.random.Generator, titles: list[str]) -> None:
    table = {
        "item_id": [f"i{i:04d}" for i in range(len(titles))],
        "title": titles,
        "category": rng.choice(CATEGORIES, len(titles)),
        "maker": rng.choice(MAKERS, len(titles)),
    }
    pq.write_table(pa.table(table), folder / "items.parquet")


def _write_teacher(folder: Path, texts: list[str], traits: list[int]) -> None:
    with (folder / "teacher.jsonl").open("w", encoding="utf-8") as file:
        for text, trait in zip(texts, traits, strict=True):
            said = {
                "text": text,
                "rationale": f"{text.split()[0]} stands for {TRAITS[trait][0]}",
                "explicit": [text.rsplit(" ", 1)[0]],
                "implicit": list(TRAITS[trait]),
            }
            file.write(json.dumps(said) + "\n")


def _write_users(folder: Path, rng: np.random.Generator, mottos: list[str]) -> None:
    table = {
        "user_id": [f"u{u:04d}" for u in range(len(mottos))],
        "motto": mottos,
        "region": rng.choice(REGIONS, len(mottos)),
    }
    pq.write_table(pa.table(table), folder / "users.parquet")


def _write_events(
    folder: Path, rng: np.random.Generator, size: Size, trait_N: np.ndarray, loves_U2: np.ndarray
) -> None:
    loves_UT = np.zeros((size.num_users, len(TRAITS)), dtype=bool)
    loves_UT[np.arange(size.num_users)[:, None], loves_U2] = True
    user_E = np.repeat(np.arange(size.num_users), size.events_per_user)
    item_E = np.concatenate(
        [rng.choice(size.num_items, size.events_per_user, replace=False) for _ in range(size.num_users)]
    )
    leaning_U = rng.normal(0, 0.3, size.num_users)
    logit_E = np.where(loves_UT[user_E, trait_N[item_E]], 1.9, -2.1) + leaning_U[user_E]
    probability_E = 1 / (1 + np.exp(-logit_E))
    seconds_E = START_SECONDS + _moments(rng, size, user_E)
    events = pa.table(
        {
            "user_id": [f"u{u:04d}" for u in user_E],
            "item_id": [f"i{i:04d}" for i in item_E],
            "timestamp": seconds_E,
            "click": (rng.random(len(user_E)) < probability_E).astype(np.int8),
        }
    )
    pq.write_table(events, folder / "events.parquet")
    pq.write_table(events.append_column("probability", pa.array(probability_E)), folder / "truth.parquet")


def _moments(rng: np.random.Generator, size: Size, user_E: np.ndarray) -> np.ndarray:
    """Seconds from the beginning to each event."""
    if not size.active_days:
        return rng.integers(0, DAYS * 86_400, len(user_E))
    arrival_U = rng.integers(0, (DAYS - size.active_days) * 86_400, size.num_users)
    return arrival_U[user_E] + rng.integers(0, size.active_days * 86_400, len(user_E))
