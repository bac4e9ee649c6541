"""The suite's time budget: seconds per group of tests, scaled by how fast this machine was while they ran.

`tests/budget.toml` holds the seconds and the calibration of the run they come from. A run with `--budget=check` repeats
the calibration every few seconds between its tests and fails where a group took more than TOLERANCE times its scaled
seconds. `--budget=write` measures the file again.
"""

import statistics
import threading
import time
import tomllib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

FILE = Path(__file__).parents[1] / "budget.toml"
TOLERANCE = 1.5
SAMPLE_EVERY_SECONDS = 15.0
SHOWN_TESTS = 5
MIN_SECONDS = 5.0
"""A smaller group is within what the machine's own noise does."""


def _interpret() -> None:
    """Dictionaries, strings and sorting: what planning, parsing and test code spend their time on."""
    counted: dict[str, int] = {}
    for number in range(60_000):
        key = str(number * 2654435761 % 5003)
        counted[key] = counted.get(key, 0) + 1
    sorted(counted.items(), key=lambda one: (one[1], one[0]))


def _multiply() -> None:
    """A float32 matrix product on one thread: what models spend their time on."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    left = torch.ones(512, 512)
    for _ in range(12):
        left @ left
    torch.set_num_threads(threads)


WORK: Mapping[str, Callable[[], None]] = {"interpreter": _interpret, "matrix": _multiply}


class Calibration:
    """Repeats both pieces of work in a thread beside the tests; the median is the machine's speed in this run."""

    def __init__(self) -> None:
        self.seconds: dict[str, list[float]] = {name: [] for name in WORK}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._sample_until_ended, daemon=True)

    def start(self) -> None:
        """Begins."""
        self._thread.start()

    def stop(self) -> dict[str, float]:
        """Ends; returns the median seconds of each piece of work."""
        self._ended.set()
        self._thread.join()
        return {name: statistics.median(seconds) for name, seconds in self.seconds.items()}

    def _sample_until_ended(self) -> None:
        for work in WORK.values():
            work()  # imports and first-call set-up are not the machine's speed
        while True:
            for name, work in WORK.items():
                started = time.perf_counter()
                work()
                self.seconds[name].append(time.perf_counter() - started)
            if self._ended.wait(SAMPLE_EVERY_SECONDS):
                return


@dataclass(frozen=True)
class Group:
    """One line of the budget."""

    prefix: str
    """Tests whose path starts so, unless a longer prefix fits."""
    seconds: float
    matrix_share: float = 0.0
    """Share of the time that goes with the speed of matrix products, not with the interpreter's."""

    def allowed(self, measured: Mapping[str, float], reference: Mapping[str, float]) -> float:
        """Seconds the group may take on a machine of this calibration."""
        factor = {name: measured[name] / reference[name] for name in WORK}
        scale = self.matrix_share * factor["matrix"] + (1 - self.matrix_share) * factor["interpreter"]
        return TOLERANCE * scale * max(self.seconds, MIN_SECONDS)


class Budget:
    """The file, and the seconds of a run."""

    def __init__(self, text: str) -> None:
        document = tomllib.loads(text)
        self.reference: dict[str, float] = document["calibration"]
        self.groups = [Group(prefix, **facts) for prefix, facts in document["groups"].items()]
        self.spent: Counter[str] = Counter()

    def add(self, nodeid: str, seconds: float) -> None:
        """Counts one phase of a test."""
        self.spent[nodeid.partition("@")[0]] += seconds

    def group_of(self, nodeid: str) -> Group:
        """The group with the longest prefix that fits.

        Raises:
            LookupError: there is none; a new folder of tests needs a line.
        """
        fitting = [group for group in self.groups if nodeid.startswith(group.prefix)]
        if not fitting:
            raise LookupError(f"no group of {FILE.name} fits {nodeid}; add a line for its folder")
        return max(fitting, key=lambda group: len(group.prefix))

    def by_group(self) -> dict[Group, Counter[str]]:
        """Group → its tests' seconds."""
        found: dict[Group, Counter[str]] = {group: Counter() for group in self.groups}
        for nodeid, seconds in self.spent.items():
            found[self.group_of(nodeid)][nodeid] += seconds
        return found

    def table(self, measured: Mapping[str, float]) -> Iterator[str]:
        """One line a group: seconds, the budget scaled to this machine, their ratio."""
        speeds = ", ".join(f"{name} {measured[name] / self.reference[name]:.2f}" for name in WORK)
        yield f"machine: {speeds} times the seconds of the calibration in {FILE.name}"
        for group, tests in self.by_group().items():
            scaled = group.allowed(measured, self.reference) / TOLERANCE
            yield f"{tests.total():8.1f} s of {scaled:8.1f}  {tests.total() / scaled:5.2f}  {group.prefix}"

    def overruns(self, measured: Mapping[str, float]) -> Iterator[str]:
        """A sentence for each group over its budget, with the tests that took most of it."""
        for group, tests in self.by_group().items():
            allowed = group.allowed(measured, self.reference)
            if tests.total() > allowed:
                slowest = ", ".join(f"{nodeid} {seconds:.1f} s" for nodeid, seconds in tests.most_common(SHOWN_TESTS))
                yield (
                    f"{group.prefix} took {tests.total():.0f} s, and {allowed:.0f} s are allowed here ({TOLERANCE}"
                    f" times its budget at this machine's speed); the slowest: {slowest}. Make them faster, or measure"
                    " the budget again: make budget"
                )

    def text(self, measured: Mapping[str, float]) -> str:
        """The file with the seconds of this run."""
        lines = [HEAD, "[calibration]"]
        lines += [f"{name} = {measured[name]:.4f}" for name in WORK]
        lines += ["", "[groups]"]
        for group, tests in self.by_group().items():
            share = f", matrix_share = {group.matrix_share}" if group.matrix_share else ""
            lines.append(f'"{group.prefix}" = {{ seconds = {tests.total():.0f}{share} }}')
        return "\n".join(lines) + "\n"


HEAD = """\
# Seconds of each group of tests (the sum over its tests, two lanes side by side), and how long the calibration's two
# pieces of work took in that run. Written by `make budget`; read by `make test`: tests/support/suite_budget.py.
# matrix_share says how much of a group goes with the speed of matrix products; it is set by hand.
"""
