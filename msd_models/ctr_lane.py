"""What trains in a lane: one JSON line a job on stdin, one a piece of its progress on stdout."""

import json
import os
import queue
import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from msd_models.ctr_job import outcome_line, read_job, train_one
from msd_models.ctr_records import open_inputs
from msd_models.vector_alignment import open_vectors
from pipeline.errors import MsdError
from pipeline.log_lines import carry_on
from pipeline.progress import Advance

TOLD_ROWS = 20_000
"""Rows that are told at once."""


def main() -> None:
    """Trains what it is given until stdin ends."""
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    carry_on(json.loads(sys.stdin.readline()))
    requests: queue.Queue[dict[str, Any]] = queue.Queue()
    threading.Thread(target=_read_requests, args=(requests,), daemon=True).start()

    def reply(**fields: Any) -> None:
        replies.write(json.dumps(fields) + "\n")
        replies.flush()

    while True:
        request = requests.get()
        try:
            reply(id=request["id"], done=_train(Path(request["folder"]), _told(request["id"], reply)))
        except MsdError as error:
            reply(id=request["id"], error=str(error))
        except Exception:
            traceback.print_exc()
            os._exit(1)


def _read_requests(requests: "queue.Queue[dict[str, Any]]") -> None:
    for line in sys.stdin:
        requests.put(json.loads(line))
    # The parent is done, or was killed: a training under way goes on at its checkpoint when somebody asks for it.
    os._exit(0)


def _train(folder: Path, advance: Advance) -> str:
    job = read_job(folder)
    torch.set_num_threads(job.config.threads)
    outcome = train_one(job, open_inputs(job.records), open_vectors(job.vectors), advance)
    return outcome_line(job, outcome)


def _told(name: str, reply: Callable[..., None]) -> Advance:
    waiting = 0.0

    def advance(amount: float = 1) -> None:
        nonlocal waiting
        waiting += amount
        if waiting >= TOLD_ROWS:
            reply(id=name, rows=waiting)
            waiting = 0.0

    return advance


if __name__ == "__main__":
    main()
