"""Processes that have Feast from their first moment: forked from a small parent that imports it once a session.

Feast takes seconds to import, and each fresh interpreter pays for it. A test that must kill a process, or stop it, gets
a real one here within milliseconds. The parent runs nothing of the tests and has no second thread of Python's.
"""

import contextlib
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import forkserver
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

_PRELOADED = "preloaded_feast"


@dataclass(frozen=True, eq=False)
class Child:
    """A running process; what it writes to stdout and stderr goes to a file."""

    process: ForkServerProcess
    output: Path

    @property
    def pid(self) -> int:
        """Of the process, which also leads a process group of its own."""
        assert self.process.pid is not None
        return self.process.pid

    @property
    def returncode(self) -> int | None:
        """None while it runs; minus the signal that killed it."""
        return self.process.exitcode

    def ended(self, timeout_seconds: float = 120) -> str:
        """Waits for the end; returns everything written."""
        self.process.join(timeout_seconds)
        assert self.returncode is not None, f"it still runs after {timeout_seconds} s"
        return self.output.read_text(encoding="utf-8")

    def lines(self, count: int, timeout_seconds: float = 60) -> list[str]:
        """The first lines written, as soon as they are there."""
        deadline = time.monotonic() + timeout_seconds
        while True:
            written = self.output.read_text(encoding="utf-8")
            if written.count("\n") >= count:
                return written.splitlines()[:count]
            assert self.returncode is None, f"it ended early: {written}"
            assert time.monotonic() < deadline, f"it wrote only {written!r}"
            time.sleep(0.002)


class ForkedChildren:
    """Starts children of the parent that has Feast; start it before the first child is wanted."""

    def __init__(self, folder: Path) -> None:
        # Children import this module, and do without pytest.
        import pytest

        self._folder = folder
        self._count = 0
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload([_PRELOADED])
        # The parent looks for what it preloads on PYTHONPATH only.
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)
            forkserver.ensure_running()

    @contextmanager
    def running(self, function: Callable[..., Any], *arguments: Any, cwd: Path | None = None) -> Iterator[Child]:
        """A child that calls a module's function; its process group does not outlive the block."""
        self._count += 1
        output = self._folder / f"child-{self._count}.txt"
        output.touch()
        inherited = (str(cwd or Path.cwd()), dict(os.environ), str(output))
        process = self._context.Process(target=_call, args=(*inherited, function, arguments), daemon=True)
        process.start()
        child = Child(process, output)
        try:
            yield child
        finally:
            if child.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(child.pid, signal.SIGKILL)
                # It may not lead its group yet.
                process.kill()
            process.join(30)

    def call(self, function: Callable[..., Any], *arguments: Any, cwd: Path | None = None) -> str:
        """Calls a function in a child to its end, which must be a good one; returns what it wrote."""
        with self.running(function, *arguments, cwd=cwd) as child:
            written = child.ended()
            assert child.returncode == 0, written[-3000:]
            return written


def _call(cwd: str, environment: dict[str, str], output: str, function: Callable[..., Any], arguments: tuple) -> None:
    assert _PRELOADED in sys.modules, "its parent has imported nothing"
    os.setsid()
    descriptor = os.open(output, os.O_WRONLY | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(descriptor, stream)
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    function(*arguments)
