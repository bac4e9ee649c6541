"""The demo's clock, cores and memory: a first and a second `msd demo` on a fresh work folder.

Prints wall seconds and cores busy (processor seconds over wall seconds and cores) of each stage, what the demo had said
it would take, the peak of the process tree's proportional set size (shared pages counted once), and each figure's ratio
to its bound. Install time is not in it: `time make demo` on a fresh clone shows that.

    python benchmarks/demo.py                                                        # this machine
    ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 python benchmarks/demo.py       # without AVX-512
"""

import contextlib
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from pipeline.machine import multiplies_bfloat16

FIRST_SECONDS = 620 if multiplies_bfloat16() else 1100
"""12 and 20 minutes with the install, which takes a minute and a half."""
SECOND_SECONDS, PEAK_GIB, LONGEST_SILENCE = 20, 8.0, 20
STAGE = re.compile(r"\[\d+/\d+\] (\w+):")
FORECAST = re.compile(r"about (\d+) s in all")
BEFORE = "(start)"


@dataclass
class Watched:
    """What was seen of one `msd demo`."""

    seconds: float = 0.0
    peak_gib: float = 0.0
    silence: float = 0.0
    """The longest time between two lines."""
    forecast: float | None = None
    marks: list[tuple[str, float, float]] = field(default_factory=list)
    """Each stage with the wall and processor seconds at which it began."""

    def stages(self) -> list[tuple[str, float, float]]:
        """Each stage with its wall and processor seconds."""
        ends = self.marks[1:]
        return [
            (name, end - begun, end_cpu - begun_cpu)
            for (name, begun, begun_cpu), (_, end, end_cpu) in zip(self.marks, ends, strict=False)
        ]


def main() -> None:
    """Runs the demo twice and prints the table."""
    with tempfile.TemporaryDirectory(prefix="msd-demo-") as work:
        first = watch(Path(work))
        second = watch(Path(work))
    cores = len(os.sched_getaffinity(0))
    print(f"\n{'stage':24} {'seconds':>8} {'cpu s':>8} {'busy':>5}")
    for name, seconds, cpu in first.stages():
        print(f"{name:24} {seconds:8.1f} {cpu:8.1f} {cpu / max(seconds, 1e-9) / cores:5.0%}")
    if first.forecast:
        print(f"said at the start {first.forecast:6.0f} s   {first.forecast / first.seconds:5.2f} of what it took")
    print(
        f"longest silence   {first.silence:6.1f} s   {first.silence / LONGEST_SILENCE:5.2f} of {LONGEST_SILENCE:.0f} s"
    )
    print(f"first msd demo    {first.seconds:6.1f} s   {first.seconds / FIRST_SECONDS:5.2f} of {FIRST_SECONDS} s")
    print(f"second msd demo   {second.seconds:6.1f} s   {second.seconds / SECOND_SECONDS:5.2f} of {SECOND_SECONDS} s")
    print(f"peak memory     {first.peak_gib:8.2f} GiB {first.peak_gib / PEAK_GIB:5.2f} of {PEAK_GIB} GiB")


def watch(work: Path) -> Watched:
    """Runs `msd demo` and watches its lines, processor time and memory."""
    watched = Watched()
    started = time.monotonic()
    command = [sys.executable, "-m", "pipeline", "demo", "--work", str(work)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    root = psutil.Process(process.pid)
    clock = _Clock(root, watched)
    threading.Thread(target=clock.run, daemon=True).start()
    watched.marks.append((BEFORE, 0.0, 0.0))
    assert process.stderr is not None
    last_line = started
    for line in process.stderr:
        sys.stderr.write(line)
        now = time.monotonic()
        watched.silence, last_line = max(watched.silence, now - last_line), now
        if found := STAGE.match(line):
            watched.marks.append((found[1], now - started, clock.cpu_seconds()))
        elif found := FORECAST.search(line):
            watched.forecast = float(found[1])
    watched.marks.append(("", time.monotonic() - started, clock.cpu_seconds()))
    if process.wait() != 0:
        sys.exit("msd demo failed")
    watched.seconds = time.monotonic() - started
    return watched


class _Clock:
    """Processor seconds and memory of a process and of all it has started."""

    def __init__(self, root: psutil.Process, watched: Watched) -> None:
        self.root, self.watched = root, watched
        self.last = 0.0

    def run(self) -> None:
        """Looks once a second until the process has ended."""
        while self.root.is_running() and self.root.status() != psutil.STATUS_ZOMBIE:
            self.watched.peak_gib = max(self.watched.peak_gib, self._gib())
            time.sleep(1.0)

    def cpu_seconds(self) -> float:
        """Of the living and of those that were waited for; what was known last where the tree changes meanwhile."""
        with contextlib.suppress(psutil.Error):
            self.last = max(self.last, sum(sum(process.cpu_times()[:4]) for process in self._tree()))
        return self.last

    def _gib(self) -> float:
        total = 0
        with contextlib.suppress(psutil.Error):
            for process in self._tree():
                total += process.memory_full_info().pss
        return total / 2**30

    def _tree(self) -> list[psutil.Process]:
        return [self.root, *self.root.children(recursive=True)]


if __name__ == "__main__":
    main()
