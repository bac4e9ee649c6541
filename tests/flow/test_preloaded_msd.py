"""A call of the preloaded command behaves like one of the installed command."""

import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

pytestmark = [pytest.mark.redis, pytest.mark.xdist_group("flow")]


@pytest.mark.parametrize(
    ("words", "exit_code"), [(["list", "--work", "nowhere"], 0), (["list", "--date", "soon"], 2), (["nonsense"], 2)]
)
def test_it_answers_as_the_installed_command(preloaded_msd, tmp_path, words, exit_code):
    (tmp_path / "nowhere").mkdir()
    answers = []
    for command in (preloaded_msd, [Path(sys.executable).parent / "msd"]):
        variables = {"PATH": "/nowhere", "COLUMNS": "100"}
        ended = subprocess.run([*command, *words], capture_output=True, cwd=tmp_path, env=variables, check=False)
        answers.append((ended.returncode, ended.stdout, ended.stderr))
    assert answers[0] == answers[1]
    assert answers[0][0] == exit_code


def test_a_killed_call_takes_what_it_started_with_it(preloaded_msd, tmp_path):
    command = [*preloaded_msd, "redis", "--work", str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as call:
        assert call.stdout is not None
        assert call.stdout.readline().startswith("redis://")
        (keeper,) = [each for each in psutil.process_iter(["cmdline"]) if _is_about(each.info["cmdline"], tmp_path)]
        call.kill()
        assert call.wait() == -signal.SIGKILL
        keeper.wait(30)


def _is_about(words, folder):
    return bool(words) and str(folder / "redis") in words and any("redis_keeper" in word for word in words)
