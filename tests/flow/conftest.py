"""The flow as a user runs it: the command in a process of its own, its work folder read afterwards."""

import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from small_shop import MADE, Shop, write_shop


def run_msd(
    *arguments: str, work: Path, environment: Mapping[str, str] | None = None, timeout: float = 900
) -> subprocess.CompletedProcess[str]:
    """Runs the command and returns what it said."""
    command = [sys.executable, "-m", "pipeline", *arguments, "--work", str(work)]
    variables = os.environ | dict(environment or {})
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False, env=variables)


@pytest.fixture(scope="session")
def msd() -> Callable[..., subprocess.CompletedProcess[str]]:
    """The command: msd("run", "items", work=folder)."""
    return run_msd


@pytest.fixture(scope="session")
def tiny_world(tmp_path_factory) -> Path:
    """A work folder in which the whole flow ran on the tiny world."""
    work = tmp_path_factory.mktemp("tiny-world")
    ended = run_msd("run", "report", "--source", "tiny-world", "--preset", "tiny-world", work=work)
    assert ended.returncode == 0, ended.stderr
    return work


@pytest.fixture(scope="session")
def shop(tmp_path_factory) -> Shop:
    """A small shop's flow up to its publication, on a scripted teacher; tests only read it, or copy it."""
    folder = tmp_path_factory.mktemp("shop") / "made"
    (folder / "files").mkdir(parents=True)
    write_shop(folder / "files")
    made = Shop(folder, run_msd)
    ended = made.msd("run", *MADE)
    assert ended.returncode == 0, ended.stderr
    return made
