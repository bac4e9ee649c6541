"""The flow as a user runs it: the command in a process of its own, its work folder read afterwards."""

import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import pytest
from planted_world import Planted, plant
from small_shop import MADE, Shop, write_shop


def run_command(
    command: Sequence[str],
    *arguments: str,
    work: Path,
    environment: Mapping[str, str] | None = None,
    timeout: float = 900,
) -> subprocess.CompletedProcess[str]:
    """Runs the command and returns what it said."""
    words = [*command, *arguments, "--work", str(work)]
    variables = os.environ | dict(environment or {})
    return subprocess.run(words, capture_output=True, text=True, timeout=timeout, check=False, env=variables)


@pytest.fixture(scope="session")
def msd(preloaded_msd) -> Callable[..., subprocess.CompletedProcess[str]]:
    """The command: msd("run", "items", work=folder)."""
    return partial(run_command, preloaded_msd)


@pytest.fixture(scope="session")
def fresh_msd() -> Callable[..., subprocess.CompletedProcess[str]]:
    """The same in an interpreter of its own, as a person starts it."""
    return partial(run_command, [sys.executable, "-m", "pipeline"])


@pytest.fixture(scope="session")
def planted(tmp_path_factory, msd) -> Planted:
    """A small planted world, whose whole flow ran."""
    world = plant(tmp_path_factory.mktemp("planted"))
    ended = msd("run", "report", *world.options, work=world.work)
    assert ended.returncode == 0, ended.stderr
    return world


@pytest.fixture(scope="session")
def shop(tmp_path_factory, msd) -> Shop:
    """A small shop's flow up to its publication, on a scripted teacher; tests only read it, or copy it."""
    folder = tmp_path_factory.mktemp("shop") / "made"
    (folder / "files").mkdir(parents=True)
    write_shop(folder / "files")
    made = Shop(folder, msd)
    ended = made.msd("run", *MADE)
    assert ended.returncode == 0, ended.stderr
    return made
