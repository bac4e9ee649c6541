"""Every task is a call that the real command, or the real job, reads; and what a person types stays one word."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import typer
from hypothesis import given, settings
from hypothesis import strategies as st

from dags.chain.command import Command
from pipeline.cli import app
from pipeline.stages import BY_NAME

Facts = dict[str, Any]
EVIL = "x; touch /tmp/y"
PRINT_ARGUMENTS = "import json, sys; print(json.dumps({'got': sys.argv[1:]}))"


def calls_of(parsed: Facts) -> list[tuple[str, str, list[str]]]:
    """DAG, task and words of every call of the command, without the command itself."""
    return [
        (dag_id, task_id, call)
        for dag_id, dag in parsed["dags"].items()
        for task_id, task in dag["tasks"].items()
        if task["type"] != "SparkStageOperator"
        for call in task["calls"]
        if call
    ]


def read_by_the_command(words: list[str]) -> dict[str, Any]:
    """What `msd` understands of the words, without doing it; a wrong call raises click's UsageError."""
    command: Any = typer.main.get_command(app)
    context = command.make_context("msd", list(words[:1]) or [""], resilient_parsing=True)
    rest = list(words)
    while hasattr(command, "resolve_command"):
        name, command, rest = command.resolve_command(context, rest)
        if hasattr(command, "resolve_command"):
            context = typer.Context(command, info_name=name, parent=context)
    return command.make_context(name, rest, parent=context).params


@pytest.fixture(scope="session")
def chosen(parse_dags: Callable[..., Facts]) -> Facts:
    """The folder rendered with every choice made, hostile words among them."""
    params = {
        "date": "2026-11-20",
        "source": EVIL,
        "preset": '$(reboot) "`id`"',
        "overrides": ['items.max_text_bytes=9', "teacher_outputs.script='; rm -rf ~ #'", "prompts.focus=\"日本\n語\""],
        "sample_items": 12,
        "sample_users": 3,
        "arms": ["din", "msd"],
        "teacher": "served",
        "refresh_days": 7,
        "again": True,
        "min_f1": 0.25,
        "rows": 10,
    }  # fmt: skip
    return parse_dags(params=params, variables={"msd_max_auc_loss": "0.01", "msd_min_f1": "0.9"})


@pytest.mark.airflow
def test_every_call_is_read_by_the_real_command(parsed: Facts, chosen: Facts) -> None:
    for facts in (parsed, chosen):
        calls = calls_of(facts)
        assert len(calls) > 60
        for dag_id, task_id, call in calls:
            understood = read_by_the_command(call[1:])
            assert str(understood["work"]) == "/work-of/the tests", (dag_id, task_id)
            about_a_day = dag_id not in ("canary", "rollback")
            assert ("date" in understood and understood["date"] == "2026-11-20") == about_a_day, (dag_id, task_id)


@pytest.mark.airflow
@pytest.mark.spark
def test_every_submit_is_read_by_the_real_job(parsed: Facts) -> None:
    from spark_jobs import submit

    submits = {
        task_id: task["calls"][0]
        for dag in parsed["dags"].values()
        for task_id, task in dag["tasks"].items()
        if task["type"] == "SparkStageOperator"
    }
    assert set(submits) == {stage for stage in BY_NAME if BY_NAME[stage].kind == "table"}
    for stage, (application, *arguments, name) in submits.items():
        assert Path(application).is_file()
        assert Path(application).stem == stage
        understood = submit._parser(f"{stage}.py", BY_NAME[stage].summary).parse_args(arguments)
        assert understood.date == "2026-11-20"
        assert str(understood.work) == "/work-of/the tests"
        assert name == f"msd {stage} 2026-11-20"


@pytest.mark.airflow
def test_what_a_person_types_stays_one_word(chosen: Facts) -> None:
    words = chosen["dags"]["teacher_generation"]["tasks"]["open"]["calls"][0]
    understood = read_by_the_command(words[1:])
    assert understood["source"] == EVIL
    assert understood["preset"] == '$(reboot) "`id`"'
    assert understood["set_"] == [
        "items.max_text_bytes=9",
        "teacher_outputs.script='; rm -rf ~ #'",
        'prompts.focus="日本\n語"',
        "prompts.item_rows=12",
        "prompts.user_rows=3",
        'ctr_model.arms=["din", "msd"]',
        'teacher_outputs.generator="openai"',
    ]
    assert understood["refresh_days"] == 7
    assert understood["again"] is True


@pytest.mark.airflow
def test_overrides_of_the_form_are_settings(chosen: Facts) -> None:
    from pipeline.settings import resolve

    words = chosen["dags"]["teacher_generation"]["tasks"]["open"]["calls"][0]
    overrides = [text for text in read_by_the_command(words[1:])["set_"] if "focus" not in text]
    resolved = resolve("tiny", overrides)
    assert resolved["ctr_model"].arms == ("din", "msd")
    assert resolved["prompts"].item_rows == 12
    assert resolved["teacher_outputs"].generator == "openai"


@pytest.mark.airflow
def test_a_runs_own_bound_wins_over_the_variable(chosen: Facts, parsed: Facts) -> None:
    gate = chosen["dags"]["publication"]["tasks"]["gate"]["calls"][0]
    assert "--min-f1=0.25" in gate
    assert "--max-auc-loss=0.01" in gate
    assert not [word for word in parsed["dags"]["publication"]["tasks"]["gate"]["calls"][0] if "min-f1" in word]
    assert "--rows=10" in chosen["dags"]["canary"]["tasks"]["check_online"]["calls"][0]


@pytest.mark.airflow
@pytest.mark.parametrize("key", [None, "../2026-13-45; true"])
def test_a_missing_or_malformed_key_is_a_wrong_call(parse_dags: Callable[..., Facts], tmp_path: Path, key: str) -> None:
    facts = parse_dags(key=key)
    for dag_id, task_id in (("teacher_generation", "open"), ("embedding", "check_open")):
        words = facts["dags"][dag_id]["tasks"][task_id]["calls"][0]
        assert f"--date={key}" in words
        ended = subprocess.run([*words[:-1], f"--work={tmp_path}"], capture_output=True, text=True, timeout=60)
        assert ended.returncode == 2, ended.stderr
        assert "a day like" in ended.stderr


@given(st.lists(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=30), max_size=6))
@settings(max_examples=8, deadline=None)
def test_no_shell_reads_the_words(words: list[str]) -> None:
    ended = Command([sys.executable, "-S", "-c", PRINT_ARGUMENTS, *words], {}, ".").run(lambda _: None)
    assert ended.answer == {"got": words}


def test_an_answer_is_the_last_line_and_nothing_said_on_stderr() -> None:
    program = (
        "import sys; print('rows'); print('{\"n\": 1}', flush=True);"
        "print('msd: wrong\\nmsd: why', file=sys.stderr); sys.exit(2)"
    )
    told: list[str] = []
    ended = Command([sys.executable, "-c", program], {}, ".").run(told.append)
    assert ended.exit_code == 2
    assert ended.answer == {"n": 1}
    assert ended.last_line == "msd: why"
    assert {"rows", "msd: wrong"} <= set(told)


@pytest.mark.parametrize("printed", ["", "[1]", "{broken", "12"])
def test_what_is_no_json_object_is_no_answer(printed: str) -> None:
    ended = Command([sys.executable, "-c", f"print({printed!r})"], {}, ".").run(lambda _: None)
    assert ended.exit_code == 0
    assert ended.answer is None


def test_a_failure_told_to_machines_is_a_sentence_to_people() -> None:
    words = [sys.executable, "-c", "import sys; print(sys.argv[1], file=sys.stderr)"]
    for line, sentence in (('{"level": "error", "message": "msd: why"}', "msd: why"), ('{"no": 1}', '{"no": 1}')):
        assert Command([*words, line], {}, ".").run(lambda _: None).last_line == sentence


def test_a_server_left_behind_does_not_hold_the_task() -> None:
    program = "import subprocess, sys; print(subprocess.Popen(['sleep', '30']).pid, file=sys.stderr)"
    told: list[str] = []
    started = time.monotonic()
    Command([sys.executable, "-c", program], {}, ".").run(told.append)
    assert time.monotonic() - started < 15
    os.kill(int(told[0]), signal.SIGKILL)


def test_stopping_ends_the_command_and_what_it_started() -> None:
    program = (
        "import subprocess, sys, time; print(subprocess.Popen(['sleep', '60']).pid, file=sys.stderr, flush=True);"
        "time.sleep(60)"
    )
    command = Command([sys.executable, "-c", program], {}, ".")

    def stop_once_it_runs(line: str) -> None:
        told.append(line)
        command.stop()

    told: list[str] = []
    ended = command.run(stop_once_it_runs)
    assert ended.exit_code == -signal.SIGTERM
    assert _ends_soon(int(told[0]))


STOPPED_BY_A_SIGNAL = """
import signal, sys
from dags.chain.command import Command
stubborn = "import signal, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
stubborn += "print('begun', file=sys.stderr, flush=True); time.sleep(60)"
command = Command([sys.executable, "-c", stubborn], {}, ".")
signal.signal(signal.SIGTERM, lambda *_: command.stop(patience_seconds=0.3))
print(command.run(lambda line: print(line, flush=True)).exit_code)
"""


def test_a_signals_handler_stops_even_what_will_not_be_stopped() -> None:
    """Airflow stops a task by a signal, whose handler interrupts the wait for the command."""
    task = subprocess.Popen([sys.executable, "-c", STOPPED_BY_A_SIGNAL], stdout=subprocess.PIPE, text=True)
    assert task.stdout is not None
    assert task.stdout.readline() == "begun\n"
    task.terminate()
    assert task.communicate(timeout=15)[0] == f"-{signal.SIGKILL.value}\n"


def _ends_soon(pid: int, seconds: float = 10) -> bool:
    try:
        psutil.Process(pid).wait(seconds)
    except psutil.NoSuchProcess:
        return True
    except psutil.TimeoutExpired:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    return True


@pytest.mark.spark
@pytest.mark.slow
def test_a_killed_task_takes_its_spark_submit_with_it(tmp_path: Path) -> None:
    """spark-submit is a Java machine between the task and our driver; nobody tells it that the task is gone."""
    root = Path(__file__).parents[2]
    words = ["spark-submit", "--master", "local[1]", str(root / "spark_jobs/items.py"), "--source", "tiny-world"]
    words += ["--preset", "tiny-world", "--work", str(tmp_path)]
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    environment |= {"SPARK_LOCAL_IP": "127.0.0.1", "PYSPARK_PYTHON": sys.executable, "PYTHONPATH": str(root)}
    task = subprocess.Popen(
        [sys.executable, "-c", f"from dags.chain.command import Command; Command({words!r}, {{}}, '.').run(print)"],
        env=environment,
        cwd=root,
        stdout=subprocess.DEVNULL,
    )
    tree = _once_the_driver_runs(psutil.Process(task.pid))
    task.kill()
    task.wait(10)
    # A driver that is still importing learns of it when it is done.
    assert all(_ends_soon(pid, 60) for pid in tree)


def _once_the_driver_runs(task: psutil.Process) -> list[int]:
    """What the task has started, once there is the Python of the job below the Java machine."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        below = task.children(recursive=True)
        if any(process.name().startswith("python") for process in below):
            return [process.pid for process in below]
        time.sleep(0.1)
    raise AssertionError("the driver did not start")
