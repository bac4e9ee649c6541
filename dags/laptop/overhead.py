"""What a run of a DAG took beyond its tasks: from the end of the run before it to its own end, less its tasks' time."""

from collections.abc import Iterable
from datetime import UTC, datetime

from dags.laptop.chain_run import Hop, moment

Interval = tuple[datetime, datetime]


def wall_seconds(hop: Hop) -> float:
    """From the end of what set it off until its own end, or until now."""
    if hop.upstream_ended is None:
        return 0.0
    return ((hop.ended or datetime.now(UTC)) - hop.upstream_ended).total_seconds()


def seconds_between_tasks(hop: Hop) -> float:
    """The part of it in which none of its tasks ran: the scheduler's own time."""
    return wall_seconds(hop) - covered_seconds(running_times(hop))


def running_times(hop: Hop) -> list[Interval]:
    """When its tasks ran, each by its last try."""
    times = [(moment(task["start_date"]), moment(task["end_date"])) for task in hop.tasks]
    return [(start, end) for start, end in times if start is not None and end is not None]


def covered_seconds(intervals: Iterable[Interval]) -> float:
    """The length of the union of these times: what ran side by side counts once."""
    covered, reached = 0.0, None
    for start, end in sorted(intervals):
        since = start if reached is None or start > reached else reached
        if end > since:
            covered += (end - since).total_seconds()
            reached = end
    return covered
