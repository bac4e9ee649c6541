import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from pipeline.lifeline import VARIABLE

TIED = "from pipeline.lifeline import end_with_starter; import time; end_with_starter(); print('tied', flush=True);"
STARTS_TIED = f"""
import os, subprocess, sys, time
child = subprocess.Popen(
    [sys.executable, "-c", {TIED + "time.sleep(60)"!r}],
    env={{**os.environ, "{VARIABLE}": str(os.getpid())}}, stdout=subprocess.PIPE, start_new_session=True,
)
child.stdout.readline()
print(child.pid, flush=True)
time.sleep(60)
"""


def test_a_killed_starter_takes_its_command_with_it() -> None:
    starter = subprocess.Popen([sys.executable, "-c", STARTS_TIED], stdout=subprocess.PIPE, text=True)
    assert starter.stdout is not None
    child = psutil.Process(int(starter.stdout.readline()))
    starter.send_signal(signal.SIGKILL)
    starter.wait(10)
    starter.stdout.close()
    assert _is_gone(child)


def test_a_command_whose_starter_is_gone_already_does_not_begin() -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait(30)
    environment = {**os.environ, VARIABLE: str(gone.pid)}
    ended = subprocess.run(
        [sys.executable, "-c", TIED], env=environment, capture_output=True, text=True, timeout=30, check=False
    )
    assert ended.returncode == -signal.SIGKILL
    assert ended.stdout == ""


@pytest.mark.parametrize("tied", [False, True])
def test_what_the_command_starts_is_not_tied_and_untied_ones_go_on(tied: bool) -> None:
    environment = {name: value for name, value in os.environ.items() if name != VARIABLE}
    if tied:
        environment[VARIABLE] = str(os.getpid())
    program = f"{TIED} import os; print(os.environ.get('{VARIABLE}', 'unset'))"
    ended = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=30, check=True
    )
    assert ended.stdout.split() == ["tied", "unset"]


def test_a_real_command_ends_while_it_holds_a_dataset(tmp_path: Path) -> None:
    """`msd redis` runs until it is stopped; here nobody is left to stop it."""
    program = f"""
import os, subprocess, sys, time
child = subprocess.Popen(
    [sys.executable, "-m", "pipeline", "redis", "--work", {str(tmp_path)!r}],
    env={{**os.environ, "{VARIABLE}": str(os.getpid())}}, start_new_session=True,
)
print(child.pid, flush=True)
time.sleep(60)
"""
    starter = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert starter.stdout is not None
    child = psutil.Process(int(starter.stdout.readline()))
    time.sleep(2)
    starter.send_signal(signal.SIGKILL)
    starter.wait(10)
    starter.stdout.close()
    assert _is_gone(child)


def _is_gone(process: psutil.Process) -> bool:
    try:
        process.wait(10)
    except psutil.TimeoutExpired:
        return process.status() == psutil.STATUS_ZOMBIE
    return True
