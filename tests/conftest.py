"""What every test shares: no model hub, no more threads than its lane has, the suite's lanes and its time budget."""

import os
from collections.abc import Iterator

import hypothesis
import pytest
import suite_lanes
from preloaded_msd import serving
from suite_budget import FILE, Budget, Calibration

LANES = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# Threads of two lanes on two cores would wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", str(max(min(os.cpu_count() or 2, 4) // LANES, 1)))
os.environ.setdefault("SPARK_LOCAL_IP", "127.0.0.1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

# A busy machine is slow, not wrong: properties have no deadline, and the same examples every time.
hypothesis.settings.register_profile("msd", deadline=None, derandomize=True)
hypothesis.settings.load_profile("msd")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--budget",
        choices=("check", "write"),
        help="check: fail where a group of tests outgrew tests/budget.toml on a machine of this speed; write: measure"
        " the file again. Only for runs of the whole suite.",
    )


def pytest_configure(config: pytest.Config) -> None:
    # Workers of pytest-xdist send their reports to the controller, which keeps the budget.
    if config.getoption("--budget") and not hasattr(config, "workerinput"):
        config.pluginmanager.register(_BudgetKeeper(config.getoption("--budget")))


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    suite_lanes.deal(items)


@pytest.fixture(scope="session")
def preloaded_msd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    """The words that call the command, by a process that has its libraries imported."""
    with serving(tmp_path_factory.mktemp("msd")) as words:
        yield words


class _BudgetKeeper:
    """Counts the seconds of every test, and holds them against the budget at the end."""

    def __init__(self, task: str) -> None:
        self.task = task
        self.budget = Budget(FILE.read_text(encoding="utf-8"))
        self.calibration = Calibration()
        self.lines: list[str] = []

    def pytest_sessionstart(self) -> None:
        self.calibration.start()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.budget.add(report.nodeid, report.duration)

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        measured = self.calibration.stop()
        self.lines = list(self.budget.table(measured))
        if self.task == "write":
            FILE.write_text(self.budget.text(measured), encoding="utf-8")
            return
        overruns = list(self.budget.overruns(measured))
        self.lines += overruns
        if overruns and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        terminalreporter.section("time budget")
        for line in self.lines:
            terminalreporter.line(line)
