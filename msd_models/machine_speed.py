"""Measures this machine: prints GFLOP/s of float32 and bfloat16, and the pace of Python, as one line of JSON.

The products have the shape of a dense layer of the student. One core is measured, by the processor time it takes and in
its best round; what other programs leave of it at the moment is measured apart.
"""

import json
import sys
import time
from collections.abc import Callable

import torch

ROWS, INPUTS, OUTPUTS = 256, 576, 1536
MEASURED_SECONDS = 0.4
LEAST_ROUNDS = 3
PYTHON_STEPS = 20_000


def main() -> None:
    """Prints the rates."""
    cores = torch.get_num_threads()
    torch.set_num_threads(1)
    started = time.monotonic(), time.thread_time()
    rates = {
        "float32": _gigaflops(torch.float32),
        "bfloat16": _gigaflops(torch.bfloat16),
        "python": 1.0 / _seconds(_python_piece),
        "cores": cores,
    }
    rates["share"] = (time.thread_time() - started[1]) / (time.monotonic() - started[0])
    sys.stdout.write(json.dumps({name: round(rate, 2) for name, rate in rates.items()}) + "\n")


def _gigaflops(dtype: torch.dtype) -> float:
    states_SI = torch.rand(ROWS, INPUTS).to(dtype)
    weight_OI = torch.rand(OUTPUTS, INPUTS).to(dtype)
    with torch.inference_mode():
        seconds = _seconds(lambda: torch.nn.functional.linear(states_SI, weight_OI))
    return 2 * ROWS * INPUTS * OUTPUTS / seconds / 1e9


def _seconds(work: Callable[[], object]) -> float:
    """Processor seconds of one call, warm."""
    work()
    taken: list[float] = []
    while sum(taken) < MEASURED_SECONDS or len(taken) < LEAST_ROUNDS:
        started = time.thread_time()
        work()
        taken.append(time.thread_time() - started)
    return min(taken)


def _python_piece() -> int:
    """What Python does between two products: small objects, look-ups, text."""
    counted: dict[str, int] = {}
    for number in range(PYTHON_STEPS):
        word = f"{number % 997:x}"
        counted[word] = counted.get(word, 0) + len(word)
    return len(json.dumps(sorted(counted.items())))


if __name__ == "__main__":
    main()
