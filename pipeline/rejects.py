"""How much of a stage's rows may be rejected, and how it is said: table stages and row-wise ones alike."""

from collections.abc import Mapping

from pipeline.errors import StageError
from pipeline.job import Job


def check_rejected_share(job: Job, rows_in: int, reasons: Mapping[str, int]) -> None:
    """Fails the stage by name where it refused too much; its rejected rows stay to be looked at.

    Args:
        job: whose settings may hold max_rejected_share.
        rows_in: rows the stage read.
        reasons: rejected rows by reason.

    Raises:
        StageError: a larger share than the stage's settings allow.
    """
    name, rejected = job.stage.name, sum(reasons.values())
    limit = getattr(job.config, "max_rejected_share", None)
    if limit is not None and rows_in and rejected / rows_in > limit:
        raise StageError(
            f"{name}: {rejected:,} of {rows_in:,} rows were rejected, more than max_rejected_share = {limit}:"
            f" {reasons_told(reasons)}; look at them: msd show {name} --rejected; then mend the cause, or raise it with"
            f" --set {name}.max_rejected_share=…"
        )


def reasons_told(reasons: Mapping[str, int]) -> str:
    """The most frequent reasons with their counts."""
    ordered = sorted(reasons.items(), key=lambda pair: -pair[1])
    return ", ".join(f"{count:,} {reason}" for reason, count in ordered[:5])
