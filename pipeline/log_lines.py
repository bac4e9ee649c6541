"""Log lines for machines: with MSD_LOG=json every line of a command is one JSON object on stderr.

A line says when, how bad, what, and whose: the run (MSD_RUN_ID, or a fresh id that child processes inherit), the
command, and what is bound while a stage is made: its date, name, fingerprint and slice. What is bound belongs to the
process and not to a thread, since a process makes one stage at a time and its threads speak for that stage; workers on
this machine and on others take it over with `carried` and `carry_on`.

Passwords in addresses and the values of variables that hold keys are taken out of every line, plain ones too.
"""

import json
import logging
import math
import os
import re
import sys
import traceback
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import Any

from pipeline.errors import UsageError

FORMAT_VARIABLE = "MSD_LOG"
RUN_VARIABLE = "MSD_RUN_ID"
LONGEST_MESSAGE = 3000
"""Characters; a pipe takes 4 KiB whole, so that lines of several processes do not run into each other."""
LONGEST_RUN_ID = 200
HIDDEN = "***"

_USER_AND_PASSWORD = re.compile(r"(?<=://)\S*@")
_SECRET_VARIABLE = re.compile(r"(KEY|TOKEN|SECRET|PASSWORD|PASSWD)$", re.IGNORECASE)
_SHORTEST_SECRET = 8
"""A shorter value would hide ordinary words."""
_bound: dict[str, Any] = {}


def begin(command: str) -> None:
    """Names the command whose lines follow, and where they are JSON takes over warnings and other libraries' logs.

    Raises:
        UsageError: MSD_LOG is neither text nor json.
    """
    wanted = os.environ.get(FORMAT_VARIABLE, "")
    if wanted.lower() not in ("", "text", "json"):
        raise UsageError(f"{FORMAT_VARIABLE} is '{wanted}'; wanted text or json")
    run_id()
    _bound.clear()
    _bound["command"] = command
    _take_over()


def is_json() -> bool:
    """Whether lines are for machines."""
    return os.environ.get(FORMAT_VARIABLE, "").lower() == "json"


def run_id() -> str:
    """The id of this process and of those it starts; made up where nobody has given one."""
    given = os.environ.get(RUN_VARIABLE, "")
    if not given:
        given = os.environ[RUN_VARIABLE] = uuid.uuid4().hex[:16]
    return given[:LONGEST_RUN_ID]


@contextmanager
def bound(**fields: Any) -> Iterator[None]:
    """Puts the fields on every line of the block, and on the line that says how it failed."""
    before = dict(_bound)
    _bound.update(fields)
    try:
        yield
    except BaseException as error:
        if not hasattr(error, "log_fields"):
            with suppress(AttributeError):
                error.log_fields = dict(_bound)  # type: ignore[attr-defined]
        raise
    finally:
        _bound.clear()
        _bound.update(before)


def bind(**fields: Any) -> None:
    """Puts the fields on every line from here to the end of the process."""
    _bound.update(fields)


def carried() -> dict[str, Any]:
    """What another process needs so that its lines belong to this run: it can be pickled."""
    return {"format": os.environ.get(FORMAT_VARIABLE, ""), "run": run_id(), "bound": dict(_bound)}


def carry_on(what: Mapping[str, Any], **fields: Any) -> None:
    """Makes this process's lines part of the run that `carried` was called in."""
    os.environ[FORMAT_VARIABLE], os.environ[RUN_VARIABLE] = str(what["format"]), str(what["run"])
    _bound.clear()
    _bound.update({**what["bound"], **fields})
    _take_over()


def event(message: str, **fields: Any) -> None:
    """A line for machines alone: people see the same as progress."""
    if is_json():
        write(message, **fields)


def write(message: str, level: str = "info", **fields: Any) -> None:
    """One JSON line on stderr.

    Args:
        message: what is said, without secrets in any case.
        level: info, warning or error.
        fields: numbers and short words that belong to it.
    """
    line = {
        "at": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "level": level,
        "message": _plain(message.strip())[:LONGEST_MESSAGE],
        "run": run_id(),
        **_bound,
        **fields,
    }
    told = {name: _plain(value) for name, value in line.items() if value is not None}
    sys.stderr.write(json.dumps(told, default=str) + "\n")
    sys.stderr.flush()


def write_failure(message: str, error: BaseException, *, exit_code: int, with_traceback: bool = False) -> None:
    """The JSON line of what ends a command, with the fields that were bound where it failed."""
    shown = "".join(traceback.format_exception(error)) if with_traceback else None
    fields = {**getattr(error, "log_fields", {}), "error": type(error).__name__, "exit_code": exit_code}
    write(message, "error", **fields, traceback=None if shown is None else without_secrets(shown))


def without_secrets(text: str) -> str:
    """The text without passwords in addresses and without the values of variables that hold keys."""
    text = _USER_AND_PASSWORD.sub(f"{HIDDEN}@", text)
    for name, value in os.environ.items():
        if len(value) >= _SHORTEST_SECRET and _SECRET_VARIABLE.search(name):
            text = text.replace(value, HIDDEN)
    return text


class _Lines(logging.Handler):
    """Other libraries' warnings, as lines of ours."""

    def emit(self, record: logging.LogRecord) -> None:
        level = "error" if record.levelno >= logging.ERROR else "warning"
        write(record.getMessage(), level, logger=record.name)


def _take_over() -> None:
    if is_json():
        logging.basicConfig(handlers=[_Lines()], level=logging.WARNING, force=True)
        logging.captureWarnings(True)


def _plain(value: Any) -> Any:
    """What every reader of JSON takes: no infinity, and no halves of characters."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return without_secrets(value).encode("utf-8", "replace").decode() if isinstance(value, str) else value
