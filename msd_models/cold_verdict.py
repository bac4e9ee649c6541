"""What may be said of cold items in words, and where no lead is shown, what the probes tell of why.

Text should pay where ids know little. Where it does not, the reason is one of few: too few rows to see a lead, a text
that helps nobody, knowledge the text's plain vector has too, a student that does not say what its teacher says.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

OPPONENT, TEXT_ARM = "din", "raw_text"
FIRST = "msd"
"""The arm the sentences are about, where it was trained; else the first semantic one."""
WANTED_LEAD = 0.01


def cold_sentences(
    cold: Mapping[str, Any] | None, quality: Mapping[str, Any], distilled: Mapping[str, Any], tuned: Mapping[str, Any]
) -> list[str]:
    """Whether the semantic arm leads on cold items, and if not, why as far as was measured.

    Args:
        cold: of `slices.cold_items`.
        quality: of the teacher's rows; its `redundancy` probes.
        distilled: the student's phrase F1.
        tuned: what tuned_student told.

    Returns:
        Empty where there is no such arm, no OPPONENT or no cold row.
    """
    arm = _arm_of(cold)
    if cold is None or arm is None:
        return []
    delta = arm["delta_auc_vs"][OPPONENT]
    start = f"On cold items {arm['name']}"
    if delta[0] > 0:
        size = "" if delta[1] >= WANTED_LEAD else f", by less than {WANTED_LEAD}"
        return [f"{start} leads {OPPONENT}{size}: AUC {_delta(delta)}.{_beside_text(arm)}"]
    verdict = "trails" if delta[2] < 0 else "is not shown to lead"
    reasons = [*_of_the_rows(cold, arm), *_of_the_text(cold), *_of_the_teacher(quality), *_of_the_student(distilled)]
    if tuned.get("is_tuned") is False:
        reasons.append("Tuning by clicks did not help on valid, so that the student is the distilled one.")
    return [f"{start} {verdict} {OPPONENT}: AUC {_delta(delta)}. What was measured of why:", *reasons]


def _arm_of(cold: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    arms = [arm for arm in (cold or {}).get("arms", []) if arm["kind"] == "semantic"]
    known = [arm for arm in arms if _is_known(arm["delta_auc_vs"].get(OPPONENT))]
    return min(known, key=lambda arm: arm["name"] != FIRST, default=None)


def _beside_text(arm: Mapping[str, Any]) -> str:
    delta = arm["delta_auc_vs"].get(TEXT_ARM)
    if not _is_known(delta):
        return f" Whether it leads {TEXT_ARM} too is not known: that arm was not trained beside it."
    assert delta is not None
    verb = "It leads" if delta[0] > 0 else "It trails" if delta[2] < 0 else "It is not shown to lead"
    return f" {verb} {TEXT_ARM}, the text without a teacher: {_delta(delta)}."


def _of_the_rows(cold: Mapping[str, Any], arm: Mapping[str, Any]) -> Iterator[str]:
    low, _, high = arm["delta_auc_vs"][OPPONENT]
    reach = (high - low) / 2
    if reach > WANTED_LEAD:
        yield (
            f"{cold['rows']:,} rows with {cold['clicks']:,} clicks are few: the interval reaches {reach:.4f} to either"
            f" side, so that a lead of {WANTED_LEAD} could not be seen if it were there."
        )


def _of_the_text(cold: Mapping[str, Any]) -> Iterator[str]:
    for arm in cold["arms"]:
        delta = arm["delta_auc_vs"].get(OPPONENT)
        if arm["name"] == TEXT_ARM and _is_known(delta):
            if delta[0] > 0:
                yield f"The text itself helps there: {TEXT_ARM} leads {OPPONENT}, {_delta(delta)}."
            else:
                yield f"The text itself is not shown to help there: {TEXT_ARM} against {OPPONENT} {_delta(delta)}."


def _of_the_teacher(quality: Mapping[str, Any]) -> Iterator[str]:
    for listed, probe in sorted(quality.get("redundancy", {}).get("item", {}).items()):
        if probe:
            yield f"Of the teacher's {listed} phrases: {probe['sentence'][0].lower()}{probe['sentence'][1:]}"


def _of_the_student(distilled: Mapping[str, Any]) -> Iterator[str]:
    by_list = distilled.get("f1_by_list")
    if by_list:
        yield (
            f"The student says what the teacher says with an F1 of {by_list['explicit']:.2f} on explicit and"
            f" {by_list['implicit']:.2f} on implicit phrases."
        )


def _is_known(delta: Sequence[float | None] | None) -> bool:
    # Only numbers compare equal to themselves; NaN and None are no interval.
    return delta is not None and all(value is not None and value == value for value in delta)


def _delta(delta: Sequence[float]) -> str:
    low, mean, high = (f"{value:+.4f}".replace("-", "−") for value in delta)
    return f"{mean} [{low}, {high}]"
