"""One command as a child of its task: no shell in between, lines passed on as they come, its answer read at the end.

Its arguments reach it as they are, so that nothing a person types into a form is ever read by a shell.
"""

import json
import os
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from pipeline.lifeline import VARIABLE

WRONG_CALL = 2
"""The exit code of a call that no repetition makes right."""
LINGER_SECONDS = 2.0
STOP_SECONDS = 20.0


@dataclass(frozen=True, kw_only=True)
class Ended:
    """How a command ended."""

    exit_code: int
    answer: dict[str, Any] | None
    """The JSON object on the last line of its stdout, if there is one."""
    last_line: str
    """Of stderr, where a failure is a sentence."""


class Command:
    """A command, running or not."""

    def __init__(self, arguments: Sequence[str], variables: Mapping[str, str], folder: str) -> None:
        """Takes what is run, what it finds in its environment beside ours, and where."""
        self._arguments = list(arguments)
        self._variables = dict(variables)
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    def run(self, tell: Callable[[str], None]) -> Ended:
        """Runs it to its end; every line it prints goes to `tell`."""
        Path(self._folder).mkdir(parents=True, exist_ok=True)
        last_lines = [""]
        with tempfile.TemporaryFile() as printed:
            self._process = subprocess.Popen(
                self._arguments,
                stdin=subprocess.DEVNULL,
                stdout=printed,
                stderr=subprocess.PIPE,
                cwd=self._folder,
                env={**os.environ, **self._variables, VARIABLE: str(os.getpid())},
                start_new_session=True,
            )
            assert self._process.stderr is not None
            listening = threading.Thread(target=_pass_on, args=(self._process.stderr, tell, last_lines), daemon=True)
            listening.start()
            exit_code = self._process.wait()
            # A server that the command left running may hold its stderr open: its last words are not waited for.
            listening.join(LINGER_SECONDS)
            printed.seek(0)
            lines = printed.read().decode(errors="backslashreplace").splitlines()
        for line in lines:
            tell(line)
        return Ended(exit_code=exit_code, answer=_answer(lines), last_line=_sentence(last_lines[0]))

    def stop(self, patience_seconds: float = STOP_SECONDS) -> None:
        """Ends it and what it started, which is its own process group: asked first, then killed."""
        process = self._process
        if process is None or process.returncode is not None:
            return
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
            if not _ends_within(process.pid, patience_seconds):
                os.killpg(process.pid, signal.SIGKILL)


def _ends_within(pid: int, seconds: float) -> bool:
    """Looks without reaping: a signal's handler stops what `run` is waiting for, and must not wait in its place."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is not None:
                return True
        except ChildProcessError:
            return True
        time.sleep(0.05)
    return False


def _pass_on(stream: IO[bytes], tell: Callable[[str], None], last_lines: list[str]) -> None:
    with stream:
        for raw in stream:
            line = raw.decode(errors="backslashreplace").rstrip()
            if line:
                last_lines[0] = line
                tell(line)


def _sentence(line: str) -> str:
    """What a line says to people: with MSD_LOG=json the sentence is one of its fields."""
    told = _answer([line])
    return str(told["message"]) if told and "message" in told else line


def _answer(lines: Sequence[str]) -> dict[str, Any] | None:
    try:
        answer = json.loads(lines[-1]) if lines else None
    except ValueError:
        return None
    return answer if isinstance(answer, dict) else None
