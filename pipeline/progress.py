"""Progress for people: a bar with rate and time left on a terminal, a plain line every few seconds elsewhere.

A stage that has nothing to count (a model loads, Spark plans) is covered by `heartbeat`, which speaks up whenever no
line has been written for a while.

Everything goes to stderr, so that what a command prints can be piped. With MSD_LOG=json the lines are for machines: see
`pipeline.log_lines`.
"""

import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from pipeline import log_lines

CONSOLE = Console(stderr=True, highlight=False)
LINE_SECONDS = 10.0
QUIET_SECONDS = 15.0
"""Without a line for so long, `heartbeat` writes one: a watcher waits 20 seconds at most, a busy machine included."""
T = TypeVar("T")


class _Screen:
    """What the person watching sees at the moment."""

    last_line: float = 0.0
    """When the last line was written, on the monotonic clock."""
    bars: int = 0
    """Bars that move on a terminal, which need no lines beside them."""


class Advance(Protocol):
    """Says that `amount` more is done."""

    def __call__(self, amount: float = 1) -> None:
        """Adds amount, in the unit the progress was opened with."""


def note(message: str, level: str = "info", **fields: Any) -> None:
    """One line for the person watching.

    Args:
        message: a sentence, which is all a person sees.
        level: info, warning or error; for machines.
        fields: the facts in it by name; for machines.
    """
    _Screen.last_line = time.monotonic()
    if log_lines.is_json():
        log_lines.write(message, level, **fields)
    else:
        CONSOLE.print(log_lines.without_secrets(message), markup=False, soft_wrap=True)


@contextmanager
def heartbeat(name: str, quiet_seconds: float = QUIET_SECONDS) -> Iterator[None]:
    """Writes that the stage is still being made whenever nothing else has been written for quiet_seconds."""
    ended = threading.Event()
    started = time.monotonic()

    def beat() -> None:
        wait = quiet_seconds
        while not ended.wait(wait):
            now = time.monotonic()
            wait = max(started, _Screen.last_line) + quiet_seconds - now
            if wait <= 0:
                wait = quiet_seconds
                if not _Screen.bars:
                    seconds = round(now - started)
                    note(f"      still at {name}, {seconds} s", task=name, seconds=seconds)

    thread = threading.Thread(target=beat, name=f"heartbeat of {name}", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


@contextmanager
def progress(description: str, total: float | None, unit: str = "rows") -> Iterator[Advance]:
    """Shows how far a long piece of work is; yields the function that advances it."""
    is_watched = CONSOLE.is_terminal and not log_lines.is_json()
    shown = _terminal_bar(description, total, unit) if is_watched else _plain_lines(description, total, unit)
    with shown as advance:
        yield advance


def track(iterable: Iterable[T], description: str, total: float | None, unit: str = "steps") -> Iterator[T]:
    """Iterates while showing progress, one unit an element."""
    with progress(description, total, unit) as advance:
        for element in iterable:
            yield element
            advance()


@contextmanager
def _terminal_bar(description: str, total: float | None, unit: str) -> Iterator[Advance]:
    columns = (
        TextColumn("  {task.description}"),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TextColumn(unit + " {task.fields[rate]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=CONSOLE, transient=True) as bar:
        task = bar.add_task(description, total=total, rate="")
        _Screen.bars += 1
        started = time.monotonic()
        done = 0.0

        def advance(amount: float = 1) -> None:
            nonlocal done
            done += amount
            bar.update(task, advance=amount, rate=f"{done / max(time.monotonic() - started, 1e-9):,.1f}/s")

        try:
            yield advance
        finally:
            _Screen.bars -= 1


@contextmanager
def _plain_lines(description: str, total: float | None, unit: str) -> Iterator[Advance]:
    started = time.monotonic()
    last_line = started
    done = 0.0

    def advance(amount: float = 1) -> None:
        nonlocal done, last_line
        done += amount
        now = time.monotonic()
        if now - last_line >= LINE_SECONDS:
            last_line = now
            rate = done / (now - started)
            left = f", {(total - done) / rate:,.0f} s left" if total and rate > 0 else ""
            of_total = f" of {total:,.0f}" if total else ""
            told: dict[str, Any] = {
                "task": description,
                "done": done,
                "total": total,
                "unit": unit,
                "per_second": round(rate, 3),
            }
            note(f"  {description}: {done:,.0f}{of_total} {unit}, {rate:,.1f}/s{left}", **told)

    yield advance
