"""A model in a process of its own: requests in, completions out as they finish; its end is an event like any other."""

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.errors import ServiceError

STOP_SECONDS = 10
Event = tuple["ModelProcess", dict[str, Any] | None]
"""The process, and a line it wrote; None when it has ended."""


class ModelProcess:
    """One worker; what it writes arrives in the queue it was given, in the order it wrote it."""

    def __init__(
        self, command: Sequence[str], settings: Mapping[str, Any], variables: Mapping[str, str], events: Any
    ) -> None:
        """Starts the process and hands it its settings; it answers when the model is loaded.

        Args:
            command: arguments to this Python.
            settings: its first line of input.
            variables: of its environment, on top of ours.
            events: a queue.Queue of Events.
        """
        self.in_flight: set[str] = set()
        self.is_ready = False
        self.events: queue.Queue[Event] = events
        self.errors = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115
        self.process = subprocess.Popen(
            [sys.executable, *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            encoding="utf-8",
            env=dict(os.environ) | dict(variables),
            # A group of its own, so that the processes a model is spread over end with it.
            start_new_session=True,
        )
        self._write(settings)
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def send(self, request: Mapping[str, Any]) -> None:
        """Hands over a request; one that meets a dying process stays in flight and is found when its end arrives."""
        self.in_flight.add(str(request["id"]))
        self._write(request)

    def stop(self) -> None:
        """Ends the process, which gives its memory back."""
        assert self.process.stdin is not None
        if self.in_flight:
            self._kill()
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        try:
            self.process.wait(timeout=STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._kill()
            self.process.wait()
        self._kill()
        self.reader.join()
        for stream in (self.process.stdout, self.errors):
            if stream is not None:
                stream.close()

    def failure(self) -> ServiceError:
        """The last line it wrote about its end."""
        code = self.process.wait()
        self.errors.seek(0)
        lines = [line.strip() for line in self.errors.read().splitlines() if line.strip()]
        named = [line for line in lines if "Error" in line]
        return ServiceError(
            f"the model's process ended with code {code}: {(named or lines or ['no message'])[-1]}; see: msd doctor"
        )

    def _kill(self) -> None:
        """Ends what is left of the process's group."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)

    def _write(self, line: Mapping[str, Any]) -> None:
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write(json.dumps(line) + "\n")
            self.process.stdin.flush()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.events.put((self, json.loads(line)))
        self.events.put((self, None))
