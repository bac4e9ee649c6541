"""Ends this process when another one ends, however that ends: what a scheduler started does not outlive its task.

A scheduler's task that is killed cannot end the command it started. That one would go on with nobody listening, and
hold its dataset against the task's next try. So the task names its own process in MSD_DIE_WITH, and the command ends
with it; nothing is lost, as every stage goes on at the shard where it was.
"""

import os
import select
import signal
import sys
import threading
import time

VARIABLE = "MSD_DIE_WITH"
POLL_SECONDS = 1.0


def end_with_starter() -> None:
    """Ties this process to the one that MSD_DIE_WITH names, if any; processes started from here are not tied to it."""
    starter = os.environ.pop(VARIABLE, "")
    if starter:
        end_with(int(starter))


def end_with(pid: int) -> None:
    """Kills this process as soon as the other is gone, and now if it is gone already."""
    handle: int | None = None
    if sys.platform == "linux":
        try:
            handle = os.pidfd_open(pid)
        except ProcessLookupError:
            _end()
    threading.Thread(target=_wait_and_end, args=(pid, handle), name=f"ends with {pid}", daemon=True).start()


def _wait_and_end(pid: int, handle: int | None) -> None:
    if handle is not None:
        # A handle is of the process, not of its number, which may be given to another.
        select.select([handle], [], [])
    else:
        while _is_there(pid):
            time.sleep(POLL_SECONDS)
    _end()


def _is_there(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def _end() -> None:
    # What this process started is made to end with it, a killed one too: workers, engines, Spark's machine.
    os.kill(os.getpid(), signal.SIGKILL)
