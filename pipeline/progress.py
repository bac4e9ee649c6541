"""Progress for people: a bar with rate and time left on a terminal, a plain line every few seconds elsewhere.

Everything goes to stderr, so that what a command prints can be piped. With MSD_LOG=json the lines are for machines: see
`pipeline.log_lines`.
"""

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from pipeline import log_lines

CONSOLE = Console(stderr=True, highlight=False)
LINE_SECONDS = 10.0
T = TypeVar("T")


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
    if log_lines.is_json():
        log_lines.write(message, level, **fields)
    else:
        CONSOLE.print(log_lines.without_secrets(message), markup=False, soft_wrap=True)


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
            told: dict[str, Any] = {
                "task": description,
                "done": done,
                "total": total,
                "unit": unit,
                "per_second": round(rate, 3),
            }
            note(f"  {description}: {done:,.0f}{of_total} {unit}, {rate:,.1f}/s{left}", **told)

    yield advance
