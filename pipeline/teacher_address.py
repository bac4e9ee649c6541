"""Where the teacher server of a work folder is reached: what `msd teacher start` leaves for whoever asks a teacher.

WORK/teacher_server/server.json names the process and its address, `key` (readable by its owner alone) holds what the
server asks of its callers where the environment has no key.
"""

import json
import os
import platform
import time
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

from pipeline.errors import ServiceError

FOLDER = "teacher_server"
STATE_FILE, KEY_FILE = "server.json", "key"
GONE_SECONDS = 60.0
"""After so long without a sign a server on another machine is gone."""
KEY_VARIABLES = ("OPENAI_API_KEY", "VLLM_API_KEY")


@dataclass(frozen=True, kw_only=True)
class TeacherAddress:
    """What a client needs."""

    url: str
    key: str


def with_own_server(config: Any, root: Path) -> Any:
    """The settings with an empty `endpoint` filled in: it means the server of the work folder the stage runs in."""
    names = {setting.name for setting in fields(config)} if is_dataclass(config) else set()
    if "endpoint" not in names or config.endpoint:
        return config
    return replace(config, endpoint=str(root / FOLDER))


def is_own(endpoint: str) -> bool:
    """Whether an endpoint is a work folder's own server rather than an address."""
    return not endpoint.startswith(("http://", "https://"))


def read_address(folder: Path) -> TeacherAddress:
    """Address and key of the server that was started in a folder.

    Raises:
        ServiceError: none was, or on another machine.
    """
    state = read_state(folder)
    if state is None:
        raise ServiceError(
            f"teacher_outputs: no teacher server was started in {folder.parent}; run: msd teacher start, with the same"
            " options, or name another server's address in teacher_outputs.endpoint"
        )
    if runs_elsewhere(folder, state):
        raise ServiceError(
            f"teacher_outputs: the teacher server of {folder.parent} runs on {state['host']} and answers there alone;"
            f" run this there, or name a server that {platform.node()} reaches in teacher_outputs.endpoint"
        )
    return TeacherAddress(url=f"{state['address']}/v1", key=read_key(folder))


def read_state(folder: Path) -> dict[str, Any] | None:
    """What server.json says; None where no server was started, or it was stopped."""
    try:
        return json.loads((folder / STATE_FILE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None


def runs_elsewhere(folder: Path, state: dict[str, Any]) -> bool:
    """Whether another machine that shares the folder has the server up, whose keeper touches the state as it goes."""
    try:
        age_seconds = time.time() - (folder / STATE_FILE).stat().st_mtime
    except FileNotFoundError:
        return False
    return bool(state["host"] != platform.node() and age_seconds < GONE_SECONDS)


def read_key(folder: Path) -> str:
    """The key that was made for the server, else the environment's."""
    path = folder / KEY_FILE
    return path.read_text(encoding="ascii").strip() if path.is_file() else environment_key()


def environment_key() -> str:
    """The key the environment names, if any."""
    return next((os.environ[name] for name in KEY_VARIABLES if os.environ.get(name)), "")
