"""What the comparison allows to be said, in words: a gain is claimed only over placebos.

Knowledge that a teacher adds must beat two arms that look the same but hold none of it: the plain embedding of the same
text (`raw_text`), and the arm's own vectors given to the wrong items (`shuffled_vectors`). An arm gains where both
paired intervals lie above zero, and only then.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

REQUIRED_PLACEBOS = ("raw_text", "shuffled_vectors")
OPPONENT = "din"
"""The same backbone without any vectors."""


class Finding(StrEnum):
    """What may be said of a semantic arm."""

    GAIN = "gain"
    NO_DIFFERENCE = "no_difference"
    WORSE = "worse"
    NO_CLAIM = "no_claim"


@dataclass(frozen=True, kw_only=True)
class Claim:
    """One semantic arm's finding and the sentence that states it."""

    arm: str
    finding: Finding
    sentence: str


def judge(arms: Sequence[Mapping[str, Any]]) -> list[Claim]:
    """One claim per semantic arm.

    Args:
        arms: entries of report.json's `arms`: `name`, `kind` and `delta_auc_vs` as {arm: [lo, mean, hi]}.
    """
    return [_judge_arm(arm["name"], arm["delta_auc_vs"]) for arm in arms if arm["kind"] == "semantic"]


def sentences(claims: Sequence[Claim]) -> list[str]:
    """The verdict in words, the headline first; never empty."""
    if not claims:
        return ["No arm with a teacher's knowledge was trained, so no claim about it can be made."]
    gains = [claim.arm for claim in claims if claim.finding is Finding.GAIN]
    if len(claims) == 1:
        return [claims[0].sentence]
    headline = (
        f"{len(gains)} of {len(claims)} semantic arms beat both of their placebos: {', '.join(gains)}."
        if gains
        else f"None of the {len(claims)} semantic arms beats both of its placebos."
    )
    return [headline, *(claim.sentence for claim in claims)]


def _judge_arm(arm: str, deltas: Mapping[str, Sequence[float]]) -> Claim:
    missing = [placebo for placebo in REQUIRED_PLACEBOS if not _is_known(deltas.get(placebo))]
    if missing:
        verb = "was" if len(missing) == 1 else "were"
        sentence = f"No claim can be made for {arm}: {_listed(missing)} {verb} not trained beside it."
        return Claim(arm=arm, finding=Finding.NO_CLAIM, sentence=sentence)
    above = [placebo for placebo in REQUIRED_PLACEBOS if deltas[placebo][0] > 0]
    below = [placebo for placebo in REQUIRED_PLACEBOS if deltas[placebo][2] < 0]
    shown = "; ".join(f"{_delta(deltas[placebo])} against {placebo}" for placebo in REQUIRED_PLACEBOS)
    if len(above) == len(REQUIRED_PLACEBOS):
        start = f"{arm} beats both of its placebos on this data: AUC {shown}; both intervals lie above zero."
        return Claim(arm=arm, finding=Finding.GAIN, sentence=start + _beside_opponent(deltas))
    if below:
        start = f"On this data {arm} is worse than {_listed(below)}: AUC {shown}."
        return Claim(
            arm=arm, finding=Finding.WORSE, sentence=start + _what_serves_better(below) + _below_opponent(deltas)
        )
    start = f"On this data {arm} is not distinguishable from its placebos: AUC {shown}."
    return Claim(arm=arm, finding=Finding.NO_DIFFERENCE, sentence=start + _half_a_gain(above) + _below_opponent(deltas))


def _what_serves_better(below: Sequence[str]) -> str:
    if "raw_text" in below:
        return " A plain embedding of the same text serves better."
    return " Its own vectors serve better on the wrong items, so they carry nothing."


def _half_a_gain(above: Sequence[str]) -> str:
    if above == ["shuffled_vectors"]:
        return (
            " What it has over shuffled vectors, a plain embedding of the same text may have too: no gain is claimed."
        )
    if above == ["raw_text"]:
        return " Beating raw_text counts for nothing while the same vectors on the wrong items do as well."
    return " No gain is claimed."


def _beside_opponent(deltas: Mapping[str, Sequence[float]]) -> str:
    delta = deltas.get(OPPONENT)
    if not _is_known(delta):
        return f" Whether it beats {OPPONENT} is not known: that arm was not trained beside it."
    assert delta is not None
    if delta[0] > 0:
        return f" It also beats {OPPONENT}, which reads no vectors: {_delta(delta)}."
    if delta[2] < 0:
        return f" Yet it is worse than {OPPONENT}, which reads no vectors: {_delta(delta)}."
    return f" Against {OPPONENT}, which reads no vectors, it is not distinguishable: {_delta(delta)}."


def _below_opponent(deltas: Mapping[str, Sequence[float]]) -> str:
    delta = deltas.get(OPPONENT)
    if _is_known(delta) and deltas[OPPONENT][2] < 0:
        return f" It is worse than {OPPONENT}, which reads no vectors: {_delta(deltas[OPPONENT])}."
    return ""


def _is_known(delta: Sequence[float] | None) -> bool:
    # Only numbers compare equal to themselves; NaN and None are no interval.
    return delta is not None and all(value is not None and value == value for value in delta)


def _delta(delta: Sequence[float]) -> str:
    low, mean, high = (f"{value:+.4f}".replace("-", "−") for value in delta)
    return f"{mean} [{low}, {high}]"


def _listed(names: Sequence[str]) -> str:
    return " and ".join(names)
