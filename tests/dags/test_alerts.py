import asyncio
import json
import logging
import shlex
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dags.chain.alerts import rows_so_far, tell_failure, tell_late

DATE = "2026-11-20"


@dataclass
class Task:
    """What the callback reads of an operator."""

    work: str
    date: str = DATE
    stages: tuple[str, ...] = ("student",)
    command: tuple[str, ...] = ("/opt/msd",)

    def call(self) -> list[str]:
        return [*self.command, "run", "student", "--only", f"--date={self.date}", f"--work={self.work}"]


@dataclass
class Instance:
    """What the callback reads of a task instance."""

    dag_id: str = "distillation"
    run_id: str = "asset_triggered__1"
    task_id: str = "student"
    map_index: int = -1
    try_number: int = 4


@dataclass
class Submit:
    """A Spark task, as the callback sees it."""

    work: str
    date: str = DATE
    stages: tuple[str, ...] = ("items",)
    application: str = "/jobs/items.py"
    application_args: list[str] = field(default_factory=lambda: [f"--date={DATE}"])


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """A folder whose name needs quoting, with a day open and two shards of an unfinished dataset."""
    root = tmp_path / "my work"
    fingerprint = "0123456789abcdef" * 4
    folder = root / "student" / fingerprint[:16]
    folder.mkdir(parents=True)
    for number in range(2):
        pq.write_table(pa.table({"n": [1, 2, 3]}), folder / f"part-0000{number}.parquet")
    (root / "partitions").mkdir()
    (root / "partitions" / f"{DATE}.json").write_text(json.dumps({"fingerprints": {"student": fingerprint}}))
    return root


def told(caplog: pytest.LogCaptureFixture) -> dict[str, object]:
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert "\n" not in record.getMessage()
    return json.loads(record.getMessage())


def test_a_failure_names_the_stage_the_rows_and_the_next_command(work: Path, caplog: pytest.LogCaptureFixture) -> None:
    error = RuntimeError("the command ended with exit code 1: msd: 日本\nand more")
    tell_failure({"task": Task(str(work)), "ti": Instance(), "exception": error})
    line = told(caplog)
    assert line["event"] == "task_failed"
    assert (line["dag"], line["date"], line["task"], line["tries"]) == ("distillation", DATE, "student", 4)
    assert line["rows"] == {"student": 6}
    assert line["error"] == "the command ended with exit code 1: msd: 日本"
    assert shlex.split(str(line["next"])) == ["msd", "run", "student", "--only", f"--date={DATE}", f"--work={work}"]


def test_a_failed_submit_is_a_submit_to_type(work: Path, caplog: pytest.LogCaptureFixture) -> None:
    tell_failure({"task": Submit(str(work)), "ti": Instance()})
    line = told(caplog)
    assert line["next"] == f"spark-submit /jobs/items.py --date={DATE}"
    assert line["rows"] == {"items": 0}


def test_a_day_that_was_never_opened_has_no_rows(work: Path) -> None:
    assert rows_so_far(str(work), "2026-11-21", "student") is None


def test_a_task_that_is_not_ours_is_told_of_too(caplog: pytest.LogCaptureFixture) -> None:
    tell_failure({"task": object(), "ti": Instance(task_id="approval"), "partition_key": DATE})
    line = told(caplog)
    assert (line["task"], line["date"], line["rows"]) == ("approval", DATE, {})


def test_a_late_run_is_named(caplog: pytest.LogCaptureFixture) -> None:
    context = {"dag_run": {"dag_run_id": "r1", "partition_key": DATE}}
    asyncio.run(tell_late(context, dag="embedding", hours=8, work="/w"))
    line = told(caplog)
    assert line["event"] == "deadline_missed"
    assert (line["dag"], line["hours"], line["run"], line["date"]) == ("embedding", 8, "r1", DATE)
    assert line["next"] == f"msd list --date={DATE} --work=/w"
