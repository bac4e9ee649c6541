"""The chain's runs as people watch them: a live table on a terminal, a line for each change elsewhere."""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

from rich.live import Live
from rich.table import Table

from dags.laptop.chain_run import ChainRun, Hop
from dags.laptop.overhead import seconds_between_tasks, wall_seconds
from pipeline.progress import CONSOLE, note

COLOURS = {"success": "green", "failed": "red", "running": "cyan", "up_for_retry": "yellow"}
QUIET = ("None", "scheduled", "queued", "waiting", "deferred")
"""States that come and go too often to be worth a line each."""
UNDER_WAY = {"running": "running", "up_for_retry": "up_for_retry", "awaiting_input": "waits for a person, in the UI"}
"""States of what is under way, and how they are told."""


@contextmanager
def shown() -> Iterator[Callable[[list[ChainRun]], None]]:
    """Yields the function that shows how far the runs are."""
    if not CONSOLE.is_terminal:
        yield _lines()
        return
    with Live(console=CONSOLE, refresh_per_second=2, transient=True) as live:
        yield lambda runs: live.update(_table(runs))


def print_results(runs: list[ChainRun]) -> None:
    """The table of what became of each DAG, on stderr."""
    CONSOLE.print(_table(runs))


def _table(runs: list[ChainRun]) -> Table:
    table = Table(box=None)
    for column in ("key", "DAG", "state", "tasks", "seconds", "between tasks", "now"):
        table.add_column(column, justify="right" if column in ("tasks", "seconds", "between tasks") else "left")
    for run in runs:
        for hop in run.hops:
            table.add_row(run.key, hop.dag, _coloured(hop.state), *_figures(hop))
    return table


def _figures(hop: Hop) -> tuple[str, str, str, str]:
    if hop.run is None or hop.run["start_date"] is None:
        return "", "", "", ""
    states = Counter(str(task["state"]) for task in hop.tasks)
    finished = f"{states['success'] + states['skipped']}/{len(hop.tasks)}"
    busy = [f"{task['task_id']} {UNDER_WAY[task['state']]}" for task in hop.tasks if task["state"] in UNDER_WAY]
    failed = [f"{task['task_id']} failed" for task in hop.failed_tasks]
    between = f"{seconds_between_tasks(hop):.1f}" if hop.ended else ""
    return finished, f"{wall_seconds(hop):.0f}", between, ", ".join(failed + busy)


def _lines() -> Callable[[list[ChainRun]], None]:
    said: dict[tuple[str, ...], str] = {}

    def show(runs: list[ChainRun]) -> None:
        for run in runs:
            for hop in run.hops:
                for task in sorted(hop.tasks, key=lambda task: task["start_date"] or ""):
                    number = "" if task["map_index"] < 0 else f"[{task['map_index']}]"
                    _say((run.key, hop.dag, task["task_id"] + number), str(task["state"]), task["duration"])
                seconds = wall_seconds(hop) if hop.ended else None
                _say((run.key, hop.dag), hop.state, seconds)

    def _say(what: tuple[str, ...], state: str, seconds: float | None) -> None:
        if state in QUIET or said.get(what) == state:
            return
        said[what] = state
        took = f" in {seconds:.1f} s" if seconds is not None and state not in ("running", "awaiting_input") else ""
        note(f"{datetime.now(UTC):%H:%M:%S} {what[0]} {'.'.join(what[1:])}: {UNDER_WAY.get(state, state)}{took}")

    return show


def _coloured(state: str) -> str:
    colour = COLOURS.get(state)
    return f"[{colour}]{state}[/]" if colour else state
