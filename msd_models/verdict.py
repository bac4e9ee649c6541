"""What the comparison allows to be said, in words: a gain is claimed only over placebos, and only on clean rows.

Knowledge that a teacher adds must beat two arms that look the same but hold none of it: the plain embedding of the same
text (`raw_text`), and the arm's own vectors given to the wrong items (`shuffled_vectors`). An arm gains where both
paired intervals lie above zero, and only then. An arm that reads no vectors and learns from one that does (ELEC) is
judged by the share of that arm's lead which it keeps. Where the leak audit names a row, nothing is claimed at all.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from msd_models.leaks import Leaks

REQUIRED_PLACEBOS = ("raw_text", "shuffled_vectors")
OPPONENT = "din"
"""The same backbone without any vectors."""


class Finding(StrEnum):
    """What may be said of an arm."""

    GAIN = "gain"
    RECOVERS = "recovers"
    """It keeps some of the lead of the arm it learns from."""
    NO_DIFFERENCE = "no_difference"
    WORSE = "worse"
    NO_CLAIM = "no_claim"


@dataclass(frozen=True, kw_only=True)
class Claim:
    """One arm's finding and the sentence that states it."""

    arm: str
    finding: Finding
    sentence: str
    is_distilled: bool = False
    """True for an arm that reads no vectors and learns from one that does."""


def judge(arms: Sequence[Mapping[str, Any]], leaks: Leaks | None = None) -> list[Claim]:
    """One claim per semantic arm, then one per arm that learns from another.

    Args:
        arms: entries of report.json's `arms`: `name`, `kind`, `delta_auc_vs` as {arm: [lo, mean, hi]}, and of a
            distilled arm `gap_recovered`.
        leaks: what the audit found; any finding turns every claim into none.
    """
    claims = [_judge_arm(arm["name"], arm["delta_auc_vs"]) for arm in arms if arm["kind"] == "semantic"]
    gains = {claim.arm for claim in claims if claim.finding is Finding.GAIN}
    claims += [_judge_distilled(arm["name"], arm["gap_recovered"], gains) for arm in arms if arm["kind"] == "distilled"]
    if leaks is None or not leaks.total:
        return claims
    sentence = "No claim is made for {}: features of some rows know those rows' future."
    return [Claim(arm=claim.arm, finding=Finding.NO_CLAIM, sentence=sentence.format(claim.arm)) for claim in claims]


def sentences(claims: Sequence[Claim], leaks: Leaks | None = None) -> list[str]:
    """The verdict in words, the headline first; never empty."""
    if leaks is not None and leaks.total:
        return _leaking(leaks)
    if not claims:
        return ["No arm with a teacher's knowledge was trained, so no claim about it can be made."]
    if len(claims) == 1:
        return [claims[0].sentence]
    semantic = [claim for claim in claims if not claim.is_distilled]
    gains = [claim.arm for claim in semantic if claim.finding is Finding.GAIN]
    headline = (
        f"{len(gains)} of {len(semantic)} semantic arms beat both of their placebos: {', '.join(gains)}."
        if gains
        else f"None of the {len(semantic)} semantic arms beats both of its placebos."
    )
    return [headline] * (len(semantic) > 1) + [claim.sentence for claim in claims]


def _leaking(leaks: Leaks) -> list[str]:
    named = [
        f"Event {row['event_id']} of user {row['user_id']} on item {row['item_id']} ({row['leak']}): {row['evidence']}"
        for row in leaks.first
    ]
    headline = "No claim is made: features of some rows know those rows' future, so that every AUC here is too good."
    return [headline, leaks.sentence(), *named, "All of them, as the data are now: msd audit"]


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


def _judge_distilled(arm: str, gap: Mapping[str, Any] | None, gains: Collection[str]) -> Claim:
    if gap is None:
        sentence = (
            f"No claim can be made for {arm}: the arm it learns from and a tabular arm of its backbone were not both"
            " trained beside it."
        )
        return Claim(arm=arm, finding=Finding.NO_CLAIM, sentence=sentence, is_distilled=True)
    base, gain, lead, share = gap["base"], gap["gain"], gap["lead"], gap["share"]
    if not _is_known(share):
        verb = "trails" if lead[2] < 0 else "does not lead"
        sentence = f"{arm} has nothing to recover: {gain} {verb} {base} (AUC {_delta(lead)})."
        return Claim(arm=arm, finding=Finding.NO_DIFFERENCE, sentence=sentence, is_distilled=True)
    shown = f"{_percent(share[1])} [{_percent(share[0])}, {_percent(share[2])}] of {gain}'s lead over {base}"
    shown += f" (AUC {_delta(lead)})"
    if share[0] <= 0:
        finding = Finding.WORSE if share[2] < 0 else Finding.NO_DIFFERENCE
        start = f"{arm} is not shown to keep any of the lead it is taught: {shown}."
        if finding is Finding.WORSE:
            start = f"{arm} is worse than {base}, which nobody taught: it keeps {shown}."
        return Claim(arm=arm, finding=finding, sentence=start, is_distilled=True)
    start = f"{arm}, which reads no vectors, keeps {shown}."
    if gain not in gains:
        start += f" That this lead is the teacher's knowledge is not shown: {gain} does not beat both of its placebos."
    return Claim(arm=arm, finding=Finding.RECOVERS, sentence=start, is_distilled=True)


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


def _percent(share: float) -> str:
    return f"{share:.0%}".replace("-", "−")


def _listed(names: Sequence[str]) -> str:
    return " and ".join(names)
