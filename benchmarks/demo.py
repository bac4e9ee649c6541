"""The demo's clock and memory: a first and a second `msd demo` on a fresh work folder.

Prints seconds of both, the peak of the process tree's proportional set size (shared pages counted once), and each
figure's ratio to its bound. Install time is not in it: `time make demo` on a fresh clone shows that.
"""

import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import psutil

FIRST_SECONDS, SECOND_SECONDS, PEAK_GIB = 900, 20, 8.0


def main() -> None:
    """Runs the demo twice and prints the table."""
    with tempfile.TemporaryDirectory(prefix="msd-demo-") as work:
        first_seconds, first_peak = measured(Path(work))
        second_seconds, _ = measured(Path(work))
    print(f"first msd demo   {first_seconds:7.1f} s   {first_seconds / FIRST_SECONDS:5.2f} of {FIRST_SECONDS} s")
    print(f"second msd demo  {second_seconds:7.1f} s   {second_seconds / SECOND_SECONDS:5.2f} of {SECOND_SECONDS} s")
    print(f"peak memory      {first_peak:7.2f} GiB {first_peak / PEAK_GIB:5.2f} of {PEAK_GIB} GiB")


def measured(work: Path) -> tuple[float, float]:
    """Seconds and peak GiB of one `msd demo`."""
    started = time.monotonic()
    process = subprocess.Popen([sys.executable, "-m", "pipeline", "demo", "--work", str(work)])
    peak = [0.0]
    watcher = threading.Thread(target=_watch, args=(process.pid, peak), daemon=True)
    watcher.start()
    if process.wait() != 0:
        sys.exit("msd demo failed")
    return time.monotonic() - started, peak[0]


def _watch(pid: int, peak: list[float]) -> None:
    while psutil.pid_exists(pid):
        peak[0] = max(peak[0], _tree_gib(pid))
        time.sleep(1.0)


def _tree_gib(pid: int) -> float:
    total = 0
    try:
        root = psutil.Process(pid)
        for process in [root, *root.children(recursive=True)]:
            total += process.memory_full_info().pss
    except psutil.Error:
        return total / 2**30
    return total / 2**30


if __name__ == "__main__":
    main()
