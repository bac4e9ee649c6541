"""Memory of CTR training as the log grows from one million examples to ten: the peak must not double.

Each size in processes of its own: the log is made, its records are written, and one epoch of an arm is trained from
them, scored and judged as in production. Peaks are of the process (the largest resident set), for records and training
apart. `python benchmarks/ctr_memory.py [LARGEST] [ARM]` (default 10,000,000 and din; about a quarter of an hour)
"""

import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from click_log import make_log, make_records

from msd_models.arms_file import read_arms
from msd_models.ctr_records import open_inputs
from msd_models.fitting import fit
from msd_models.networks import build
from pipeline.config import CtrModel

SMALLEST = 1_000_000
WANTED = 2.0
CONFIG = CtrModel(max_epochs=1, batch_size=4096)


def main() -> None:
    """Prints the peaks of each size and their ratio to the smallest one's."""
    if sys.argv[1:2] in (["--log"], ["--records"], ["--train"]):
        run_one(sys.argv[1], Path(sys.argv[2]), sys.argv[3])
        return
    largest = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000_000
    arm = sys.argv[2] if len(sys.argv) > 2 else "din"
    first: dict[str, float] = {}
    worst = 0.0
    for size in sorted({SMALLEST, largest}):
        with tempfile.TemporaryDirectory(prefix="msd-memory-") as folder:
            _told("--log", folder, str(size))
            for part in ("--records", "--train"):
                facts = _told(part, folder, arm)
                ratio = facts["peak_mib"] / first.setdefault(part, facts["peak_mib"])
                worst = max(worst, ratio)
                print(
                    f"{size:11,} examples, {part[2:]:7s}: peak {facts['peak_mib']:7.0f} MiB, {ratio:5.2f} x,"
                    f" {size / facts['seconds']:9,.0f} rows/s",
                    flush=True,
                )
    print(f"largest growth {worst:.2f} x (wanted {WANTED} at most): {'kept' if worst <= WANTED else 'MISSED'}")


def run_one(part: str, folder: Path, argument: str) -> None:
    """One part in this process; prints its peak and seconds."""
    started = time.monotonic()
    if part == "--log":
        make_log(folder, int(argument))
    elif part == "--records":
        make_records(folder)
    else:
        _train(folder / "ctr_records", argument)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"peak_mib": peak, "seconds": time.monotonic() - started}))


def _train(records: Path, arm: str) -> None:
    torch.set_num_threads(CONFIG.threads)
    inputs, arms = open_inputs(records), read_arms()
    fit(build(arms[arm], arms, 1, inputs, None, CONFIG), inputs, CONFIG, 1, lambda _: None)


def _told(part: str, folder: str, argument: str) -> dict[str, Any]:
    command = [sys.executable, __file__, part, folder, argument]
    told = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    facts: dict[str, Any] = json.loads(told.strip().splitlines()[-1])
    return facts


if __name__ == "__main__":
    main()
