"""How long the demo takes on a machine: what each of its stages costs, over the rates measured there.

A stage's cost has two parts, fitted on runs of the preset `demo` with and without AVX-512: seconds that go into Python,
the JVM and small operations, which follow the pace of Python, and matrix products, which follow the cores' rate in the
dtype that `auto` picks.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.machine import Speed, multiplies_bfloat16
from pipeline.progress import note
from pipeline.stages import Stage

SOURCE, PRESET = "movielens-100k", "demo"
"""What the demo makes."""
REFERENCE_PYTHON = 340.0
"""Units of Python a second (see msd_models.machine_speed) where the seconds below were measured."""
BUSY_SHARE = 0.9
"""Below this share of a core, other programs slow the demo down."""


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a stage of the demo takes."""

    seconds: float = 0.0
    """Of Python, the JVM and small operations."""
    gflop: float = 0.0
    """Of matrix products, at the efficiency the stage has: more than the bare arithmetic."""
    tokens: int = 0
    """That both are for: written by the teacher, trained on by the student, read by an encoder."""
    loading: float = 0.0
    """Seconds like the first, before and after the work on tokens."""


COSTS: dict[str, Cost] = {
    "items": Cost(seconds=9),
    "interactions": Cost(seconds=4.5),
    "users": Cost(seconds=1.3),
    "item_stats": Cost(seconds=1.6),
    "user_stats": Cost(seconds=1),
    "histories": Cost(seconds=2.2),
    "context_texts": Cost(seconds=0.3),
    "prompts": Cost(seconds=13),
    "teacher_outputs": Cost(seconds=22, gflop=4650, tokens=9600, loading=18),
    "teacher_quality": Cost(seconds=9),
    "student": Cost(seconds=12, gflop=3250, tokens=27_300, loading=18),
    "item_vectors": Cost(seconds=1.4, gflop=780, tokens=48_400),
    "user_vectors": Cost(seconds=3, gflop=1550, tokens=71_400),
    "context_vectors": Cost(seconds=0.1),
    "item_text_vectors": Cost(seconds=1.2, gflop=440),
    "user_text_vectors": Cost(seconds=2, gflop=990),
    "context_text_vectors": Cost(seconds=0.1),
    "item_features": Cost(seconds=0.3),
    "user_features": Cost(seconds=0.3),
    "publication": Cost(seconds=6),
    "examples": Cost(seconds=0.5),
    "ctr_records": Cost(seconds=0.7),
    "tuned_student": Cost(seconds=18, gflop=3200),
    "tuned_item_vectors": Cost(seconds=0.3),
    "tuned_user_vectors": Cost(seconds=0.3),
    "tuned_context_vectors": Cost(seconds=0.1),
    "audit": Cost(seconds=22),
    "ctr_model": Cost(seconds=45),
    "report": Cost(seconds=4),
}
START_SECONDS = 8.0
"""Before the first stage and after the last one."""


def stage_seconds(name: str, speed: Speed) -> float:
    """Seconds of a stage of the demo."""
    return COSTS[name].loading * REFERENCE_PYTHON / speed.python + _working_seconds(COSTS[name], speed)


def tokens_per_second(name: str, speed: Speed) -> float:
    """Tokens the stage's model writes, trains on or reads a second, once it is loaded."""
    return COSTS[name].tokens / _working_seconds(COSTS[name], speed)


def demo_seconds(names: Sequence[str], speed: Speed) -> float:
    """Seconds of `msd demo` where these stages are to be made."""
    return START_SECONDS * REFERENCE_PYTHON / speed.python + sum(stage_seconds(name, speed) for name in names)


def announce(stages: Sequence[Stage], speed: Speed) -> None:
    """Says what the demo is about to make and how long it will take."""
    total = demo_seconds([stage.name for stage in stages], speed)
    note(
        f"{len(stages)} datasets of MovieLens-100K, every component real: about {total:.0f} s in all on this machine,"
        f" by its speed ({told(speed)})"
    )
    if speed.share < BUSY_SHARE:
        note(
            f"other programs leave a process {speed.share:.0%} of a core now: about {total / speed.share:.0f} s in all"
            " if they go on"
        )
    for stage in stages:
        note(f"{stage_seconds(stage.name, speed):7.0f} s  {stage.name}: {stage.summary}")


def told(speed: Speed) -> str:
    """The rates in words."""
    picked = "bfloat16" if multiplies_bfloat16() else "float32"
    return (
        f"float32 {speed.float32:.0f} and bfloat16 {speed.bfloat16:.0f} GFLOP/s a core on {speed.cores} cores; models"
        f" run in {picked}"
    )


def _working_seconds(cost: Cost, speed: Speed) -> float:
    rate = speed.bfloat16 if multiplies_bfloat16() else speed.float32
    return cost.seconds * REFERENCE_PYTHON / speed.python + cost.gflop / (rate * speed.cores)
