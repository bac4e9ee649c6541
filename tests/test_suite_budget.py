"""The budget of the suite can fail: it names what grew, follows the machine, and knows every folder of tests."""

import subprocess
import sys
from pathlib import Path

import pytest
from suite_budget import FILE, MIN_SECONDS, TOLERANCE, WORK, Budget, Calibration

TESTS = Path(__file__).parent
TEXT = """
[calibration]
interpreter = 0.1
matrix = 0.2
[groups]
"tests/models/" = { seconds = 100, matrix_share = 0.5 }
"tests/models/text/" = { seconds = 40 }
"tests/small/" = { seconds = 0.2 }
"""
SAME = {"interpreter": 0.1, "matrix": 0.2}


@pytest.fixture
def budget():
    return Budget(TEXT)


def test_a_group_that_grew_is_named_with_its_slowest_tests(budget):
    budget.add("tests/models/test_a.py::test_quick@tests/models/test_a.py", 10.0)
    budget.add("tests/models/test_a.py::test_slow@tests/models/test_a.py", 90.0)
    budget.add("tests/models/test_a.py::test_slow@tests/models/test_a.py", 55.0)
    [overrun] = budget.overruns(SAME)
    assert overrun.startswith("tests/models/ took 155 s, and 150 s are allowed here")
    slowest = "tests/models/test_a.py::test_slow 145.0 s, tests/models/test_a.py::test_quick 10.0 s"
    assert f"the slowest: {slowest}" in overrun


def test_what_is_within_the_tolerance_is_no_overrun(budget):
    budget.add("tests/models/test_a.py::test_a", TOLERANCE * 100 - 1)
    assert list(budget.overruns(SAME)) == []


@pytest.mark.parametrize(
    ("measured", "allowed"),
    [
        ({"interpreter": 0.2, "matrix": 0.4}, 300),  # half as fast in everything
        ({"interpreter": 0.1, "matrix": 1.0}, 450),  # slow in matrix products alone, which are half of the group
        ({"interpreter": 0.05, "matrix": 0.1}, 75),  # twice as fast: the budget shrinks too
    ],
)
def test_the_budget_follows_the_machine(budget, measured, allowed):
    budget.add("tests/models/test_a.py::test_a", allowed + 1)
    assert len(list(budget.overruns(measured))) == 1
    budget.spent["tests/models/test_a.py::test_a"] -= 2
    assert list(budget.overruns(measured)) == []


def test_the_longest_prefix_counts_and_small_groups_have_room(budget):
    assert budget.group_of("tests/models/text/test_b.py::test_b").seconds == 40
    budget.add("tests/small/test_c.py::test_c", TOLERANCE * MIN_SECONDS - 0.1)
    assert list(budget.overruns(SAME)) == []
    with pytest.raises(LookupError, match="add a line for its folder"):
        budget.group_of("tests/new/test_d.py::test_d")


def test_a_written_budget_is_read_back(budget):
    budget.add("tests/models/test_a.py::test_a", 77.0)
    again = Budget(budget.text({"interpreter": 0.3, "matrix": 0.5}))
    assert again.reference == {"interpreter": 0.3, "matrix": 0.5}
    assert again.group_of("tests/models/test_a.py").seconds == 77
    assert again.group_of("tests/models/test_a.py").matrix_share == 0.5


def test_every_file_of_tests_has_a_group():
    budget = Budget(FILE.read_text(encoding="utf-8"))
    for path in TESTS.rglob("test_*.py"):
        budget.group_of(str(path.relative_to(TESTS.parent)))


def test_the_calibration_measures_both_kinds_of_work():
    calibration = Calibration()
    calibration.start()
    measured = calibration.stop()
    assert measured.keys() == WORK.keys()
    assert all(seconds > 0 for seconds in measured.values())


def test_a_run_over_its_budget_fails(tmp_path):
    """The whole way: a run of one test whose group may take next to nothing, on a machine said to be far faster."""
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_slow.py").write_text("import time\n\n\ndef test_slow():\n    time.sleep(1)\n")
    (tmp_path / "tests" / "conftest.py").write_text(
        "import suite_budget\n"
        "suite_budget.MIN_SECONDS = 0.0\n"
        f"suite_budget.FILE = __import__('pathlib').Path({str(tmp_path / 'budget.toml')!r})\n"
        + (TESTS / "conftest.py").read_text()
    )
    (tmp_path / "pytest.ini").write_text(f"[pytest]\npythonpath = {TESTS / 'support'}\n")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--budget=check", "tests"]
    codes = {}
    for seconds in (0.01, 100):
        limits = f'[groups]\n"tests/" = {{ seconds = {seconds} }}\n'
        (tmp_path / "budget.toml").write_text(f"[calibration]\ninterpreter = 0.03\nmatrix = 0.03\n{limits}")
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120)
        codes[seconds] = done.returncode
        assert ("took 1 s" in done.stdout) == (seconds < 1), done.stdout
    assert codes == {0.01: 1, 100: 0}
