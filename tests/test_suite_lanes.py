"""Tests of one group run in one worker: what they share is made once."""

import subprocess
import sys
from pathlib import Path

TESTS = Path(__file__).parent
CONFTEST = """
import pytest
import suite_lanes


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    suite_lanes.deal(items)
"""
NAMED = "import pytest\n\npytestmark = pytest.mark.xdist_group('shared')\n"
WRITES = """
import os
import pathlib


def test_{name}():
    place = pathlib.Path({folder!r}) / "{group}-{name}"
    place.write_text(os.environ["PYTEST_XDIST_WORKER"])
"""


def test_a_group_stays_in_one_worker(tmp_path):
    folder = tmp_path / "seen"
    folder.mkdir()
    for file, group in (("one", "shared"), ("two", "shared"), ("alone", "alone"), ("other", "other")):
        body = "".join(WRITES.format(name=f"{file}{n}", folder=str(folder), group=group) for n in range(6))
        (tmp_path / f"test_{file}.py").write_text((NAMED if group == "shared" else "") + body)
    (tmp_path / "conftest.py").write_text(CONFTEST)
    (tmp_path / "pytest.ini").write_text(f"[pytest]\npythonpath = {TESTS / 'support'}\n")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-n", "2", "--dist", "loadgroup"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    workers = {}
    for path in folder.iterdir():
        workers.setdefault(path.name.partition("-")[0], set()).add(path.read_text())
    assert {group: len(seen) for group, seen in workers.items()} == {"shared": 1, "alone": 1, "other": 1}
    assert len(set.union(*workers.values())) == 2, "both workers had something to do"
