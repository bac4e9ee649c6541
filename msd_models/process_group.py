"""One function in several processes that form a torch.distributed group: torchrun here, Spark's tasks on a cluster.

What the processes work on is a folder that each of them reads. Whoever starts them only has to call `work(folder)` in
each; the work itself is the same function as in one process.
"""

import os
import re
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Callable
from pathlib import Path

from pipeline.errors import StageError
from pipeline.progress import Advance

Launch = Callable[[Path, int, Advance], None]
"""Calls `work(job)` in so many processes that form one group, and returns when all have ended."""
STEP_MARK = "msd-steps "
KEPT_LINES = 400
RAISED = re.compile(r"(?:\[rank\d+\]: )?([A-Za-z_][\w.]*(?:Error|Exception)\b.{0,300})")
"""How a traceback ends."""


def is_first_process() -> bool:
    """Whether this process is the one that writes."""
    return os.environ.get("RANK", "0") == "0"


def tell_parent(amount: float = 1) -> None:
    """An Advance whose steps reach the progress bar of whoever called launch_torchrun; the first process tells."""
    if is_first_process():
        sys.stdout.write(f"{STEP_MARK}{amount:g}\n")
        sys.stdout.flush()


def launch_torchrun(module: str, stage: str, job: Path, processes: int, advance: Advance) -> None:
    """Starts `python -m module job` so many times on this machine through torchrun, on GPUs where there are any.

    Args:
        module: calls `work` with its first argument.
        stage: whose `processes` setting is meant, for the error.
        job: folder of the work.
        processes: of the group.
        advance: is told what the first process tells.

    Raises:
        StageError: a process failed; its last words are kept beside the job.
    """
    command = [sys.executable, "-m", "torch.distributed.run", "--nnodes=1", f"--nproc-per-node={processes}"]
    # Without an address of its own each process would ask what this machine's name means.
    command += ["--rdzv-backend=c10d", "--rdzv-endpoint=127.0.0.1:0", "--local-addr=127.0.0.1", "-m", module, str(job)]
    environment = {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": _loopback()} | os.environ
    last: deque[str] = deque(maxlen=KEPT_LINES)
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", env=environment
    ) as process:
        assert process.stdout is not None
        try:
            for line in process.stdout:
                if line.startswith(STEP_MARK):
                    advance(float(line.removeprefix(STEP_MARK)))
                else:
                    last.append(line)
        except BaseException:
            process.terminate()
            raise
    if process.returncode:
        log = job / "failed.log"
        log.write_text("".join(last), encoding="utf-8")
        reason = next((f": {found[1]}" for line in last if (found := RAISED.match(line))), "")
        raise StageError(
            f"{stage}: training in {processes} processes ended with exit code {process.returncode}{reason}; their last"
            f" lines are in {log}; run again to go on from the last checkpoint, or use --set {stage}.processes=1"
        )


def _loopback() -> str:
    return next(name for _, name in socket.if_nameindex() if name.startswith("lo"))
