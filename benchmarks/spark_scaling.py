"""The table jobs over millions of events: a standalone cluster of one worker, of two, and DuckDB doing the same work.

Claimed: items, interactions, users, item_stats, user_stats and histories of five million events (items and users drawn
by Zipf's law, one event in five a click) are made by plain spark-submits on a real standalone cluster; a second worker
of one core makes them faster; and DuckDB, in one process on the same files, finds the same rows: every event with its
number and split, every count and rank, every history item by item.

Spark's seconds are those of the stages' manifests; what a submit costs besides (a driver that starts) is printed apart.
A job's seconds begin with executors that start and queries that are planned, whatever the size of the log: the same
jobs over a log of --start-events tell how long, and from both comes what a million events more take. The driver's own
core comes on top of the workers' unless the machine has no more, as where this was measured. DuckDB gets the threads of
the largest cluster and writes zstd Parquet as well, in the same order. Rounds are interleaved and figures medians. From
which size on a cluster or its second worker pays is printed only where a million events more take it less time.

`python benchmarks/spark_scaling.py [--events N] [--start-events N] [--rounds N] [--workers 1 2]`
"""

import argparse
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from same_tables import DuckTables

from pipeline.runner import Plan, make_plan
from pipeline.settings import resolve
from pipeline.source import load_source
from pipeline.storage import Workspace
from spark_jobs.cluster import Size, start, stop

JOBS = ("items", "interactions", "users", "item_stats", "user_stats", "histories")
SPARK_JOBS = Path(__file__).resolve().parents[1] / "spark_jobs"
NUM_FILES = 8
CTR = 0.2
DAYS = 60
START_SECONDS = 1_700_000_000
SOURCE = """
[items]
path = "items.parquet"
text = ["title"]
category = "category"
[events]
path = "events"
time = "timestamp"
label = "click"
[histories]
max_length = {max_length}
"""


def main() -> None:
    """Runs the rounds, compares the rows, and prints seconds and ratios."""
    call = _parser().parse_args()
    # So that a cluster is stopped where this is ended from outside.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended from outside"))
    with tempfile.TemporaryDirectory(prefix="msd-spark-", dir=call.folder) as name:
        small, large = (
            _seconds(Path(name) / str(events), argparse.Namespace(**{**vars(call), "events": events}))
            for events in (call.start_events, call.events)
        )
    _say(small, large, call)


def _seconds(folder: Path, call: argparse.Namespace) -> dict[str, Mapping[str, float]]:
    """Seconds of each job, and of submitting, for each number of workers and for DuckDB."""
    folder.mkdir()
    write_log(folder, call)
    num_bytes = sum(path.stat().st_size for path in (folder / "events").iterdir())
    print(f"{call.events:,} events of {call.users:,} users and {call.items:,} items, {num_bytes:,} bytes", flush=True)
    told: dict[str, list[Mapping[str, float]]] = {str(number): [] for number in call.workers} | {"DuckDB": []}
    for _ in range(call.rounds):
        for workers in call.workers:
            told[str(workers)].append(on_spark(folder, call, workers))
        told["DuckDB"].append(in_duckdb(folder, call))
    shutil.rmtree(folder)
    return {side: _medians(rounds) for side, rounds in told.items()}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser()
    parser.add_argument("--events", type=int, default=5_000_000)
    parser.add_argument("--start-events", type=int, default=100_000, help="so few that a job's seconds are its start")
    parser.add_argument("--users", type=int, default=300_000)
    parser.add_argument("--items", type=int, default=50_000)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2], help="workers of one core each")
    parser.add_argument("--memory", default="2g", help="of a worker's executor")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--snapshots", default="event", help="[histories] snapshots")
    parser.add_argument("--max-length", type=int, default=50, help="[histories] max_length")
    parser.add_argument("--folder", type=Path, help="where it works; else the folder for temporary files")
    return parser


def write_log(folder: Path, call: argparse.Namespace) -> None:
    """The source's files: events in time order over several files, as a log is written day by day."""
    rng = np.random.default_rng(0)
    (folder / "events").mkdir()
    names_I = np.array([f"i{number:07d}" for number in range(call.items)])
    names_U = np.array([f"u{number:07d}" for number in range(call.users)])
    categories = np.array(["north", "east", "south", "west"])
    items = {"item_id": names_I, "title": names_I, "category": rng.choice(categories, call.items)}
    pq.write_table(pa.table(items), folder / "items.parquet")
    at_E = START_SECONDS + np.sort(rng.integers(0, DAYS * 86_400, call.events))
    events = pa.table(
        {
            "user_id": names_U[_zipf(rng, call.users, call.events, 0.7)],
            "item_id": names_I[_zipf(rng, call.items, call.events, 1.0)],
            "timestamp": at_E,
            "click": (rng.random(call.events) < CTR).astype(np.int8),
        }
    )
    rows = -(-call.events // NUM_FILES)
    for number in range(NUM_FILES):
        pq.write_table(events.slice(number * rows, rows), folder / "events" / f"{number}.parquet", compression="zstd")
    (folder / "mine.toml").write_text(SOURCE.format(max_length=call.max_length))


def _zipf(rng: np.random.Generator, size: int, draws: int, power: float) -> np.ndarray:
    shares = np.cumsum(np.arange(1, size + 1) ** -power)
    return np.searchsorted(shares / shares[-1], rng.random(draws))


def on_spark(folder: Path, call: argparse.Namespace, workers: int) -> dict[str, float]:
    """Seconds of each job on a fresh cluster, and what submitting them cost besides."""
    work = folder / "work"
    shutil.rmtree(work, ignore_errors=True)
    started = time.monotonic()
    try:
        cluster = start(folder / "spark_cluster", Size(workers=workers, memory="3g"))
        submitted = time.monotonic()
        for name in JOBS:
            _submit(folder, call, cluster.master, name)
        wall = time.monotonic() - submitted
    finally:
        stop(folder / "spark_cluster")
    manifests = {name: _plan(folder, call).dataset(name).manifest or {} for name in JOBS}
    seconds = {name: float(manifest["seconds"]) for name, manifest in manifests.items()}
    print(f"{workers} worker(s): {sum(seconds.values()):.0f} s, cluster up in {submitted - started:.0f} s", flush=True)
    return {**seconds, "submits": wall - sum(seconds.values())}


def _submit(folder: Path, call: argparse.Namespace, master: str, name: str) -> None:
    confs = {"spark.ui.enabled": "false", "spark.executor.memory": call.memory, "spark.driver.memory": "1g"}
    # As docs/spark.md advises.
    confs |= {f"spark.{process}.extraJavaOptions": "-XX:+UseParallelGC" for process in ("driver", "executor")}
    command = [str(Path(sys.executable).parent / "spark-submit"), "--master", master]
    command += [word for key, value in confs.items() for word in ("--conf", f"{key}={value}")]
    command += [str(SPARK_JOBS / f"{name}.py"), "--source", str(folder / "mine.toml"), "--preset", "tiny"]
    command += ["--work", str(folder / "work"), "--set", f"histories.snapshots={call.snapshots}"]
    python = {"PYSPARK_PYTHON": sys.executable, "SPARK_LOCAL_IP": "127.0.0.1"}
    done = subprocess.run(command, env=os.environ | python, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{name} ended with {done.returncode}:\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}")


def _plan(folder: Path, call: argparse.Namespace) -> Plan:
    settings = resolve("tiny", [f"histories.snapshots={call.snapshots}"])
    return make_plan(Workspace(folder / "work"), load_source(str(folder / "mine.toml")), settings)


def in_duckdb(folder: Path, call: argparse.Namespace) -> dict[str, float]:
    """Seconds of the same tables in DuckDB; their rows are held against those Spark made last."""
    plan = _plan(folder, call)
    with DuckTables(folder, threads=max(call.workers), config=plan.settings, max_length=call.max_length) as tables:
        seconds = {name: tables.make(name) for name in JOBS}
        for name in JOBS:
            tables.check(name, plan.dataset(name).folder)
    print(f"DuckDB: {sum(seconds.values()):.0f} s; rows of all {len(JOBS)} tables are equal", flush=True)
    return {**seconds, "submits": 0.0}


def _medians(rounds: list[Mapping[str, float]]) -> dict[str, float]:
    return {name: statistics.median(told[name] for told in rounds) for name in rounds[0]}


def _say(
    small: Mapping[str, Mapping[str, float]], large: Mapping[str, Mapping[str, float]], call: argparse.Namespace
) -> None:
    totals, starts = ({side: sum(of[side][name] for name in JOBS) for side in of} for of in (large, small))
    print(f"{'seconds':14s}" + "".join(f"{side:>10s}" for side in large))
    for name in JOBS:
        print(f"{name:14s}" + "".join(f"{seconds[name]:10.1f}" for seconds in large.values()))
    print(f"{'all':14s}" + "".join(f"{total:10.1f}" for total in totals.values()))
    print(f"{'of these start':14s}" + "".join(f"{total:10.1f}" for total in starts.values()))
    print(f"{'submitting':14s}" + "".join(f"{seconds['submits']:10.1f}" for seconds in large.values()))
    print(f"{'per million':14s}" + "".join(f"{total / call.events * 1e6:10.2f}" for total in totals.values()))
    more = (call.events - call.start_events) / 1e6
    slopes = {side: (totals[side] - starts[side]) / more for side in totals}
    print(f"{'a million more':14s}" + "".join(f"{slope:10.2f}" for slope in slopes.values()))
    fewest, most = str(min(call.workers)), str(max(call.workers))
    print(f"{fewest} to {most} workers: {totals[fewest] / totals[most]:.2f} x as fast as a whole,", end=" ")
    print(f"{slopes[fewest] / slopes[most]:.2f} x for a million events more")
    print(f"DuckDB: {totals[most] / totals['DuckDB']:.1f} x as fast as Spark on {most} workers as a whole,", end=" ")
    print(f"{slopes[most] / slopes['DuckDB']:.1f} x for a million events more")
    for other in (fewest, "DuckDB"):
        if slopes[most] < slopes[other]:
            pays_from = (starts[most] - starts[other]) / (slopes[other] - slopes[most])
            print(f"{most} workers pay against {other} from {pays_from:.0f} million events on")


if __name__ == "__main__":
    main()
