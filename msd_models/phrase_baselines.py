"""Phrases without a language model: what a student must beat before its F1 means anything.

A student that has only learned which phrases a stratum mostly gets, or that copies from the nearest text it has seen,
scores like one of these two.
"""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from msd_models.distillation_rows import Row
from msd_models.phrase_scores import Phrases
from msd_models.phrases import Encode

LISTS = ("explicit_phrases", "implicit_phrases")


def frequent_phrases(train: Sequence[Row], rows: Sequence[Row]) -> list[Phrases]:
    """For each row the teacher's most frequent phrases in its level and stratum, as many as a training row has.

    Args:
        train: rows of teacher_outputs that were trained on.
        rows: what phrases are wanted for; a stratum without a training row gets those of its level.
    """
    made = []
    for row in rows:
        level = [other for other in train if other["level"] == row["level"]]
        peers = [other for other in level if other["stratum"] == row["stratum"]] or level
        explicit, implicit = (_most_frequent([other[name] for other in peers]) for name in LISTS)
        made.append((explicit, implicit))
    return made


def nearest_phrases(train: Sequence[Row], rows: Sequence[Row], encode: Encode) -> list[Phrases]:
    """For each row the teacher's phrases of the training row whose text has the nearest sentence vector.

    Args:
        train: rows of teacher_outputs that were trained on.
        rows: what phrases are wanted for; only rows of the same level are looked at where there are any.
        encode: texts → unit vectors.
    """
    if not train:
        return [([], []) for _ in rows]
    known_ND = encode([row["text"] for row in train])
    levels_N = np.array([row["level"] for row in train])
    made = []
    for row, vector_D in zip(rows, encode([row["text"] for row in rows]), strict=True):
        same_N = levels_N == row["level"]
        cosine_N = known_ND @ vector_D
        nearest = train[int(np.argmax(np.where(same_N, cosine_N, cosine_N - 2) if same_N.any() else cosine_N))]
        made.append((nearest["explicit_phrases"], nearest["implicit_phrases"]))
    return made


def _most_frequent(lists: Sequence[Sequence[str]]) -> list[str]:
    """The most frequent phrases, ties by the alphabet, as many as a list has in the mean."""
    if not lists:
        return []
    counted = Counter(phrase.casefold() for phrases in lists for phrase in set(phrases))
    wanted = max(round(sum(map(len, lists)) / len(lists)), 1)
    return [phrase for phrase, _ in sorted(counted.items(), key=lambda pair: (-pair[1], pair[0]))[:wanted]]
