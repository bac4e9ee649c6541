"""What running the chain through Airflow costs beyond the commands themselves.

Claim: at most 15 s a DAG, from the end of the DAG before it to its own end, beyond its tasks' commands typed by hand.

The chain runs for one date of the tiny world through a real scheduler (LocalExecutor, sqlite). Then the very commands
its tasks ran, as Airflow rendered them, run by hand in another work folder, in the order they started in, one after the
other. Shown for each DAG: the wall clock; the commands by hand; the difference; the part of the wall clock that none of
the commands would have covered, were each to end when its task did (this counts what tasks cost each other side by
side); the time no task ran at all; and the stages' own seconds from their manifests, without any process's start.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from small_chain import MSD, PARAMS, call, laptop

from dags.laptop.chain_run import ChainRun, Hop, follow, moment, trigger
from dags.laptop.home import environment
from dags.laptop.overhead import covered_seconds, seconds_between_tasks, wall_seconds
from dags.laptop.rest import Airflow
from dags.laptop.table import shown
from pipeline.storage import FINGERPRINT_DIGITS

WANTED_SECONDS = 15.0
SPARK_SUBMIT = str(Path(sys.executable).with_name("spark-submit"))
Timed = list[tuple[dict[str, Any], float]]


def main() -> None:
    """Prints a line for each DAG and the worst one's share of what is allowed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--date", default="2023-11-25", help="a day of the tiny world's log: the later, the more rows")
    parser.add_argument("--folder", help="where the work folders are made; a temporary folder if left out")
    parser.add_argument("--tasks", action="store_true", help="a line for each task too")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="msd-orchestration-", dir=arguments.folder) as folder:
        scheduled, by_hand = Path(folder) / "scheduled", Path(folder) / "by-hand"
        chain_run, variables = scheduled_run(scheduled, arguments.date)
        timed = [repeated(hop, by_hand, variables) for hop in chain_run.hops]
        figures = [
            figures_of(hop, its, scheduled, arguments.date) for hop, its in zip(chain_run.hops, timed, strict=True)
        ]
    print(f"{'DAG':20}{'wall':>8}{'by hand':>10}{'beyond':>8}{'uncovered':>11}{'no task':>9}{'stages':>8}  tasks")
    for hop, row in zip(chain_run.hops, figures, strict=True):
        numbers = "".join(f"{row[name]:{width}.1f}" for name, width in COLUMNS)
        print(f"{hop.dag:20}{numbers}  {len(hop.tasks)}")
    if arguments.tasks:
        say_tasks(chain_run, timed)
    worst = max(row["beyond"] for row in figures)
    share = worst / WANTED_SECONDS
    print(
        f"the costliest DAG takes {worst:.1f} s beyond its commands: {share:.2f} of the {WANTED_SECONDS:.0f} s it may"
    )


COLUMNS = (("wall", 8), ("by hand", 10), ("beyond", 8), ("uncovered", 11), ("no task", 9), ("stages", 8))


def scheduled_run(work: Path, date: str) -> tuple[ChainRun, dict[str, str]]:
    """The chain of a day through Airflow, and what its tasks' commands found in their environment.

    The benchmark stops where it is not green.
    """
    with laptop(work) as home:
        airflow = Airflow(home.url)
        with shown() as show:
            [chain_run] = follow(airflow, [date], trigger(airflow, date, PARAMS), show=show)
    if not chain_run.is_green:
        raise SystemExit(f"the chain of {date} ended {[hop.state for hop in chain_run.hops]} {chain_run.trouble}")
    return chain_run, environment(home)


def repeated(hop: Hop, work: Path, variables: Mapping[str, str]) -> Timed:
    """Each task with the seconds its command takes by hand, in the order the tasks started in."""
    timed = []
    for task in sorted(hop.tasks, key=lambda task: task["start_date"] or ""):
        command = command_of(task, work)
        if command and task["state"] == "success":
            started = time.monotonic()
            call(command, variables)
            timed.append((task, time.monotonic() - started))
    return timed


def command_of(task: Mapping[str, Any], work: Path) -> list[str]:
    """What the task ran, in another work folder; empty where it ran nothing."""
    fields = {name: _parsed(value) for name, value in task["rendered_fields"].items()}
    if "application" in fields:
        arguments = [argument for argument in fields["application_args"] if not argument.startswith("--work")]
        return [SPARK_SUBMIT, "--master", "local[*]", fields["application"], *arguments, f"--work={work}"]
    if str(fields.get("when")) != "True":
        return []
    options = [f"{name}={value}" for name, values in (fields["repeated"] or {}).items() for value in _parsed(values)]
    date = [f"--date={fields['date']}"] if fields["date"] else []
    return [MSD, *filter(None, fields["arguments"]), *options, *date, f"--work={work}"]


def figures_of(hop: Hop, timed: Timed, work: Path, date: str) -> dict[str, float]:
    """Seconds of one DAG."""
    by_hand = sum(seconds for _, seconds in timed)
    commands = [_until(moment(task["end_date"]), seconds) for task, seconds in timed]
    stages = [_until(*ended) for task in hop.tasks if (ended := _manifest_time(work, date, task["task_id"]))]
    wall = wall_seconds(hop)
    return {
        "wall": wall,
        "by hand": by_hand,
        "beyond": wall - by_hand,
        "uncovered": wall - covered_seconds(commands),
        "no task": seconds_between_tasks(hop),
        "stages": covered_seconds(stages),
    }


def say_tasks(chain_run: ChainRun, timed: list[Timed]) -> None:
    """Seconds of each task as Airflow has them, others beside it or not, and of its command by hand."""
    print(f"{'task':55}{'scheduled':>10}{'by hand':>10}")
    for hop, its in zip(chain_run.hops, timed, strict=True):
        for task, seconds in its:
            name = f"{hop.dag}.{task['task_id']}" + (f"[{task['map_index']}]" if task["map_index"] >= 0 else "")
            print(f"{name:55}{task['duration']:10.1f}{seconds:10.1f}")


def _manifest_time(work: Path, date: str, stage: str) -> tuple[datetime, float] | None:
    record = json.loads((work / "partitions" / f"{date}.json").read_text(encoding="utf-8"))
    fingerprint = record["fingerprints"].get(stage)
    if fingerprint is None:
        return None
    path = work / stage / fingerprint[:FINGERPRINT_DIGITS] / "manifest.json"
    manifest = json.loads(path.read_text(encoding="utf-8"))
    return datetime.fromisoformat(manifest["created_at"]), manifest["seconds"]


def _until(end: datetime | None, seconds: float) -> tuple[datetime, datetime]:
    assert end is not None
    return end - timedelta(seconds=seconds), end


def _parsed(value: Any) -> Any:
    """A rendered field, which Airflow keeps as text where it is no string."""
    if isinstance(value, str) and value[:1] in ("[", "{"):
        return json.loads(value)
    return value


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
