"""Lines for machines: each is JSON, carries the ids of its run and stage, and holds no secret."""

import io
import json
import os
import subprocess
import sys
from contextlib import redirect_stderr

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import log_lines
from pipeline.progress import note

SCRIPT = """
import logging, sys, warnings
from pipeline import log_lines
from pipeline.errors import StageError
from pipeline.progress import note, track
log_lines.begin("run")
with log_lines.bound(stage="items", fingerprint="f" * 16, date="2024-01-10"):
    note("      900 rows in 1.5 s", rows_ok=900, seconds=1.5)
    warnings.warn("careful")
    logging.getLogger("other").error("bad %s", "thing")
try:
    with log_lines.bound(stage="users"), log_lines.bound(slice="2/4"):
        raise StageError("no users")
except StageError as error:
    log_lines.write_failure(f"msd: {error}", error, exit_code=1, with_traceback=True)
note("afterwards", "warning")
"""


@pytest.fixture
def json_lines(monkeypatch):
    monkeypatch.setenv("MSD_LOG", "json")
    monkeypatch.setenv("MSD_RUN_ID", "run-1")


def told(stderr):
    return [json.loads(line) for line in stderr.splitlines()]


def run_script(script=SCRIPT, **environment):
    variables = {name: value for name, value in os.environ.items() if not name.startswith("MSD_")} | environment
    return subprocess.run([sys.executable, "-c", script], env=variables, capture_output=True, text=True, check=True)


def test_each_line_is_json_with_the_ids_of_its_run_and_stage():
    lines = told(run_script(MSD_LOG="json").stderr)
    assert len({line["run"] for line in lines}) == 1
    assert [line["level"] for line in lines] == ["info", "warning", "error", "error", "warning"]
    assert all(line["command"] == "run" and line["at"].endswith("+00:00") for line in lines)
    assert lines[0]["rows_ok"] == 900
    assert lines[0]["message"] == "900 rows in 1.5 s"
    assert all((line["stage"], line["date"]) == ("items", "2024-01-10") for line in lines[:3])
    failed = lines[3]
    assert (failed["stage"], failed["slice"], failed["error"], failed["exit_code"]) == ("users", "2/4", "StageError", 1)
    assert "Traceback" in failed["traceback"]
    assert "stage" not in lines[4]


def test_plain_lines_stay_as_they_are():
    said = run_script("from pipeline.progress import note; note('      900 rows [bold]', rows=900)").stderr
    assert said == "      900 rows [bold]\n"


def test_a_given_run_id_is_kept_and_inherited():
    child = (
        "import subprocess, sys; from pipeline.progress import note; note('one');"
        f" subprocess.run([sys.executable, '-c', {SCRIPT!r}])"
    )
    lines = told(run_script(child, MSD_LOG="json").stderr)
    assert len({line["run"] for line in lines}) == 1
    assert {line["run"] for line in told(run_script(MSD_LOG="json", MSD_RUN_ID="dag/task/1").stderr)} == {"dag/task/1"}


def test_an_unknown_format_is_a_wrong_call():
    ended = subprocess.run(
        [sys.executable, "-m", "pipeline", "list"], env=os.environ | {"MSD_LOG": "xml"}, capture_output=True, text=True
    )
    assert ended.returncode == 2
    assert "wanted text or json" in ended.stderr


def test_what_a_worker_carries_makes_its_lines_the_runs(json_lines, capsys):
    with log_lines.bound(stage="teacher_outputs", fingerprint="abc"):
        run = json.loads(json.dumps(log_lines.carried()))
    script = (
        f"from pipeline import log_lines; log_lines.carry_on({run!r}, worker='worker 1 of 2');"
        " log_lines.event('shard written', shard=3, rows=64)"
    )
    (line,) = told(run_script(script).stderr)
    expected = {"run": "run-1", "stage": "teacher_outputs", "fingerprint": "abc", "worker": "worker 1 of 2", "shard": 3}
    assert expected.items() <= line.items()


def test_bytes_that_are_no_text_do_not_break_a_line(json_lines, capsys):
    note("items\udcff.csv", path="x\udcff")
    (line,) = told(capsys.readouterr().err)
    assert (line["message"], line["path"]) == ("items?.csv", "x?")


@given(st.text(), st.floats(), st.text(max_size=20))
def test_whatever_is_said_is_one_line_of_json(message, number, word):
    said = io.StringIO()
    with redirect_stderr(said):
        log_lines.write(message, number=number, word=word)
    assert said.getvalue().endswith("\n")
    line = json.loads(said.getvalue(), parse_constant=pytest.fail)
    assert said.getvalue().isascii()
    assert said.getvalue().count("\n") == 1
    assert line["message"] == log_lines.without_secrets(message.strip())[: log_lines.LONGEST_MESSAGE]


@pytest.mark.parametrize(
    "text",
    [
        "cannot reach redis://user:pa/ss@redis.example:6379/0",
        "cannot reach rediss://:pa@ss@redis.example:6379/0",
        "the key was sk-a-long-key-value",
    ],
)
def test_no_line_holds_a_secret(monkeypatch, capsys, text):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-a-long-key-value")
    note(text)
    monkeypatch.setenv("MSD_LOG", "json")
    note(text, address=text)
    said = capsys.readouterr().err
    assert not any(secret in said for secret in ("pa/ss", "pa@ss", "sk-a-long"))
    assert log_lines.HIDDEN in said


def test_many_processes_write_whole_lines():
    script = "from pipeline import log_lines\nfor n in range(200): log_lines.write('x' * 2900, n=n)"
    reading, writing = os.pipe()
    variables = os.environ | {"MSD_LOG": "json"}
    workers = [subprocess.Popen([sys.executable, "-c", script], stderr=writing, env=variables) for _ in range(3)]
    os.close(writing)
    with os.fdopen(reading) as pipe:
        lines = [json.loads(line) for line in pipe]
    assert [worker.wait() for worker in workers] == [0, 0, 0]
    assert sorted(line["n"] for line in lines) == sorted([*range(200)] * 3)


def test_a_call_that_cannot_be_read_is_one_line_too():
    command = [sys.executable, "-m", "pipeline", "run", "--bogus"]
    ended = subprocess.run(command, env=os.environ | {"MSD_LOG": "json"}, capture_output=True, text=True)
    (line,) = told(ended.stderr)
    assert (ended.returncode, line["exit_code"], line["command"]) == (2, 2, "run")
    assert "--bogus" in line["message"]
