"""τ, the cosine from which two phrases are equal: the threshold that agrees best with pairs labelled by hand.

A threshold taken from the air decides the F1 more than any model does: with one encoder the same rows score anything
between nought and one. The pairs hold paraphrases, related phrases that are not the same (the hard negatives) and
unrelated ones; they ship as `measures/phrase_pairs.jsonl`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from msd_models.jsonl import read_jsonl
from msd_models.phrases import ROUNDING, Encode, f1
from msd_models.stable_sample import stable_hash
from pipeline.config import Student, TeacherQuality
from pipeline.errors import ConfigError
from pipeline.packaged import packaged

SHIPPED_PAIRS = "msd_models/measures/phrase_pairs.jsonl"
STEPS = 100
"""Thresholds tried are 0.00, 0.01 … 1.00: finer than the labels can tell apart."""
FOLDS = 5
TIE = 0.005
"""Thresholds whose F1 differs by less are a tie: on some 500 pairs that is a pair or two."""
MIN_PAIRS = 20
"""Of each kind; fewer pairs leave nothing to hold out in some fold."""


@dataclass(frozen=True, kw_only=True)
class SweepPoint:
    """How well one threshold tells the pairs that are the same from the others."""

    threshold: float
    precision: float
    recall: float
    f1: float


@dataclass(frozen=True, kw_only=True)
class Threshold:
    """τ and what it was chosen from; without a sweep where a setting gives it."""

    value: float
    sweep: tuple[SweepPoint, ...] = ()
    cross_validated_f1: float | None = None
    """F1 on pairs that the threshold was not chosen on, pooled over the folds."""
    num_pairs: int = 0


def choose_threshold(config: Student | TeacherQuality, encode: Encode) -> Threshold:
    """The threshold of the settings, else the one calibrated on the labelled pairs.

    Args:
        config: phrase_threshold, phrase_pairs.
        encode: texts → unit vectors.

    Raises:
        ConfigError: a threshold outside (0, 1], or too few pairs.
        SourceError: the pairs cannot be read.
    """
    if not 0 <= config.phrase_threshold <= 1:
        raise ConfigError(
            f"phrase_threshold is {config.phrase_threshold:g}; wanted a cosine of at most 1, or 0 to calibrate it"
        )
    if config.phrase_threshold > 0:
        return Threshold(value=config.phrase_threshold)
    path = Path(config.phrase_pairs) if config.phrase_pairs else packaged(SHIPPED_PAIRS)
    return calibrate(read_pairs(path), encode)


def read_pairs(path: Path) -> list[tuple[str, str, bool]]:
    """(a, b, same) of each labelled pair.

    Raises:
        SourceError: the file cannot be read as such rows.
        ConfigError: fewer than MIN_PAIRS of either kind.
    """
    rows = read_jsonl(path, {"a": str, "b": str, "same": bool})
    pairs = [(row["a"], row["b"], row["same"]) for _, row in rows]
    num_same = sum(same for *_, same in pairs)
    if min(num_same, len(pairs) - num_same) < MIN_PAIRS:
        raise ConfigError(
            f"{path.name}: {num_same} pairs that are the same and {len(pairs) - num_same} that are not; τ wants"
            f" {MIN_PAIRS} of each; or give τ itself as phrase_threshold"
        )
    return pairs


def calibrate(pairs: Sequence[tuple[str, str, bool]], encode: Encode) -> Threshold:
    """τ of the best F1 on the pairs, in the middle of the best plateau, with the whole sweep.

    Args:
        pairs: (a, b, same); in any order, which changes nothing.
        encode: texts → unit vectors; called once with all distinct phrases.
    """
    phrases = sorted({phrase for a, b, _ in pairs for phrase in (a, b)})
    place = {phrase: number for number, phrase in enumerate(phrases)}
    vectors_ND = encode(phrases)
    a_PD = vectors_ND[[place[a] for a, _, _ in pairs]]
    b_PD = vectors_ND[[place[b] for _, b, _ in pairs]]
    cosine_P = np.einsum("pd,pd->p", a_PD, b_PD)
    same_P = np.array([same for *_, same in pairs])
    folds_P = np.array([_fold(a, b) for a, b, _ in pairs])
    sweep = _sweep(cosine_P, same_P)
    return Threshold(
        value=_best(sweep),
        sweep=sweep,
        cross_validated_f1=_cross_validated(cosine_P, same_P, folds_P),
        num_pairs=len(pairs),
    )


def _sweep(cosine_P: np.ndarray, same_P: np.ndarray) -> tuple[SweepPoint, ...]:
    points = []
    for step in range(STEPS + 1):
        threshold = step / STEPS
        hit, said, wanted = _counts(cosine_P, same_P, threshold)
        points.append(
            SweepPoint(
                threshold=threshold,
                precision=hit / said if said else 1.0,
                recall=hit / wanted if wanted else 1.0,
                f1=f1(hit, said, wanted),
            )
        )
    return tuple(points)


def _counts(cosine_P: np.ndarray, same_P: np.ndarray, threshold: float) -> tuple[int, int, int]:
    said_P = cosine_P >= threshold - ROUNDING
    return int((said_P & same_P).sum()), int(said_P.sum()), int(same_P.sum())


def _best(sweep: Sequence[SweepPoint]) -> float:
    """The middle of the longest run of thresholds whose F1 ties with the highest; of equally long ones the first."""
    highest = max(point.f1 for point in sweep) - TIE
    runs: list[list[int]] = []
    for place, point in enumerate(sweep):
        if point.f1 < highest:
            continue
        if runs and runs[-1][-1] == place - 1:
            runs[-1].append(place)
        else:
            runs.append([place])
    longest = max(runs, key=len)
    return round((sweep[longest[0]].threshold + sweep[longest[-1]].threshold) / 2, 4)


def _cross_validated(cosine_P: np.ndarray, same_P: np.ndarray, folds_P: np.ndarray) -> float:
    counted = np.zeros(3, dtype=np.int64)
    for fold in range(FOLDS):
        held_P = folds_P == fold
        chosen = _best(_sweep(cosine_P[~held_P], same_P[~held_P]))
        counted += _counts(cosine_P[held_P], same_P[held_P], chosen)
    return f1(*(int(count) for count in counted))


def _fold(a: str, b: str) -> int:
    """A hash of the pair, whichever phrase stands first."""
    first, second = sorted((a, b))
    return stable_hash(first, second) % FOLDS
