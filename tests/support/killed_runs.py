"""One command, killed in stage after stage and typed again, until the flow has ended."""

import os
import signal
import subprocess
import threading
import time

KILLED_AFTER_SECONDS = {
    "items": 2.0,
    "interactions": 0.5,
    "student": 1.0,
    "user_vectors": 0.1,
    "user_features": 0.02,
    "publication": 0.7,
    "examples": 0.05,
    "ctr_model": 1.5,
    "report": 0.02,
}
LEAST_KILLS = 7
"""A quick stage may be committed before its kill comes, and then has no turn in the next run."""
LONGEST_SECONDS = 600.0


def run_with_kills(command):
    """Runs the command and kills it, once in each stage of the table, then runs it to its end; returns that run."""
    kills = [_run_and_kill(command, stage, seconds) for stage, seconds in KILLED_AFTER_SECONDS.items()]
    assert sum(kills) >= LEAST_KILLS, dict(zip(KILLED_AFTER_SECONDS, kills, strict=True))
    return subprocess.run(command, capture_output=True, text=True, timeout=LONGEST_SECONDS, check=False)


def _run_and_kill(command, stage, after_seconds):
    """Kills the whole session some time after it says it is at the stage; False where it never was."""
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stderr is not None
    deadline = threading.Timer(LONGEST_SECONDS, lambda: os.killpg(process.pid, signal.SIGKILL))
    deadline.start()
    is_reached = False
    for line in process.stderr:
        if f"] {stage}:" in line:
            is_reached = True
            time.sleep(after_seconds)
            break
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    # Nobody has the other end any more: everything that was started is gone.
    process.stderr.read()
    deadline.cancel()
    process.stderr.close()
    return is_reached
