"""What a stage would cost before it starts, and the limits a user sets on that."""

from dataclasses import dataclass

from pipeline.errors import StageError
from pipeline.job import Job, load


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """The work that is left of a dataset."""

    rows: int
    """Of the first input."""
    rows_left: int
    """To be made by the model: neither kept from an earlier run nor the same as another row that is."""
    prompt_tokens: int
    output_tokens: int
    seconds: float | None
    """None where this machine's throughput is not known yet."""
    bytes: int | None = None
    """Of the values: a publication's in the online store, a table of vectors' own; None where nobody has asked."""
    notes: tuple[str, ...] = ()
    """How each figure came about."""

    @property
    def tokens(self) -> int:
        """Prompt and output tokens together."""
        return self.prompt_tokens + self.output_tokens


def check_budget(job: Job) -> None:
    """Refuses to start a stage that would cost more than its settings allow.

    Raises:
        StageError: over max_tokens or max_seconds.
    """
    # Settings without max_seconds set no limits: their max_tokens is a text's length.
    if job.stage.planner is None or not hasattr(job.config, "max_seconds"):
        return
    max_tokens, max_seconds = job.config.max_tokens, job.config.max_seconds
    if not (max_tokens or max_seconds):
        return
    estimate: Estimate = load(job.stage.planner)(job, measure=bool(max_seconds))
    name = job.stage.name
    if max_tokens and estimate.tokens > max_tokens:
        raise StageError(
            f"{name} would cost about {estimate.tokens:,} tokens for {estimate.rows_left:,} rows, and max_tokens is"
            f" {max_tokens:,}; nothing was started. See: msd plan {name}; then take fewer rows, or raise it with"
            f" --set {name}.max_tokens=…"
        )
    if max_seconds and estimate.seconds is not None and estimate.seconds > max_seconds:
        raise StageError(
            f"{name} would take about {estimate.seconds:,.0f} s for {estimate.rows_left:,} rows, and max_seconds is"
            f" {max_seconds:,.0f}; nothing was started. See: msd plan {name}; then take fewer rows, or raise it with"
            f" --set {name}.max_seconds=…"
        )
