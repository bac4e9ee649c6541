"""Progress for people: a bar with rate and time left on a terminal, a plain line every few seconds elsewhere.

Everything goes to stderr, so that what a command prints can be piped.
"""

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Protocol, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

CONSOLE = Console(stderr=True, highlight=False)
LINE_SECONDS = 10.0
T = TypeVar("T")


class Advance(Protocol):
    """Says that `amount` more is done."""

    def __call__(self, amount: float = 1) -> None:
        """Adds amount, in the unit the progress was opened with."""


def note(message: str) -> None:
    """One line for the person watching."""
    CONSOLE.print(message, markup=False, soft_wrap=True)


@contextmanager
def progress(description: str, total: float | None, unit: str = "rows") -> Iterator[Advance]:
    """Shows how far a long piece of work is; yields the function that advances it."""
    shown = _terminal_bar(description, total, unit) if CONSOLE.is_terminal else _plain_lines(description, total, unit)
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
        started = time.monotonic()
        done = 0.0

        def advance(amount: float = 1) -> None:
            nonlocal done
            done += amount
            bar.update(task, advance=amount, rate=f"{done / max(time.monotonic() - started, 1e-9):,.1f}/s")

        yield advance


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
            note(f"  {description}: {done:,.0f}{of_total} {unit}, {rate:,.1f}/s{left}")

    yield advance
