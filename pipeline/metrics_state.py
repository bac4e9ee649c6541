"""How often each stage has failed in a work folder: a counter must outlive the processes that fail."""

import fcntl
import json
import re

from pipeline.storage import Workspace, write_atomically

FOLDER = "metrics"


def count_failure(workspace: Workspace, source: str, stage: str) -> int:
    """Adds one failure of the stage, whoever else does at the same time; returns how many there were in all."""
    folder = workspace.root / FOLDER
    folder.mkdir(exist_ok=True)
    path = folder / f"failures.{re.sub(r'[^A-Za-z0-9-]', '_', source)}.json"
    with (folder / ".failures.lock").open("a+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        counts = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        counts[stage] = counts.get(stage, 0) + 1
        write_atomically(path, json.dumps(counts).encode())
    return int(counts[stage])
