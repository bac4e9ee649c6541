"""Examples beside Feast's get_historical_features: 10 million impressions, item and user vectors, histories.

Claimed: ten million labels joined point-in-time to three views, from their Parquet files to committed shards, under
4 GiB; and at a size Feast can do, five times as fast as `get_historical_features` with vectors in the row, on equal
rows. Feast runs at its best: offline store DuckDB, one request for all features, Arrow out, its import, its registry
and the labels' way into pandas not counted, nothing written. Ours reads labels and writes shards. What follows in a
training, the gathering of vectors by row number, is timed apart and added in a ratio of its own.

Ids are strings; items are drawn by Zipf's law, users by a flatter one, since Feast pairs a label with all earlier rows
of its user. A user has a history at each event and a vector at each doubling of it. Each part is a process of its own;
rounds are interleaved and figures medians.

`python benchmarks/examples.py [--impressions N] [--peer-impressions N] [--rounds N] [--dim D] [--spark]`
"""

import argparse
import json
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from feature_world import dataset, make_world, wanted_views

from feature_repo.definitions import entities, feature_view
from feature_repo.store import open_store, quiet_feast, write_settings
from pipeline.config import Examples
from pipeline.job import Job
from pipeline.rows import execute_rows
from pipeline.source import load_source
from pipeline.stages import BY_NAME

WANTED_RATIO = 5.0
WANTED_PEAK_GIB = 4.0
FOUND = {"feast_vectors": "vectors.parquet", "feast_rows": "rows.parquet"}


def main() -> None:
    """Runs the rounds and prints seconds, peaks and ratios; or, in a process of its own, one part."""
    call = _parser().parse_args()
    if call.part:
        PARTS[call.part](call.folder, call)
        return
    with tempfile.TemporaryDirectory(prefix="msd-examples-", dir=call.folder) as name:
        if call.impressions:
            _large(Path(name) / "large", call)
        if call.peer_impressions:
            _beside_feast(Path(name) / "peer", call)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser()
    parser.add_argument("--impressions", type=int, default=10_000_000, help="0: not at all")
    parser.add_argument("--peer-impressions", type=int, default=1_000_000, help="0: not at all")
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--memory-gib", type=float, default=Examples().memory_gib)
    parser.add_argument("--spark", action="store_true", help="time the same join on a local Spark as well")
    parser.add_argument("--folder", type=Path, help="where the world is made; else the folder for temporary files")
    parser.add_argument("--part", choices=list(PARTS), help=argparse.SUPPRESS)
    return parser


def _large(folder: Path, call: argparse.Namespace) -> None:
    """Our join at full size: seconds and peak."""
    print(_told("world", folder, call, call.impressions)["world"], flush=True)
    told = [_told("ours", folder, call) for _ in range(call.rounds)]
    seconds, peak = (statistics.median(each[name] for each in told) for name in ("seconds", "peak_gib"))
    verdict = "kept" if peak < WANTED_PEAK_GIB else "MISSED"
    print(f"ours      {seconds:7.1f} s, {call.impressions / seconds:11,.0f} rows/s, peak {peak:.2f} GiB", flush=True)
    print(f"peak {peak:.2f} GiB (wanted under {WANTED_PEAK_GIB:.0f}): {verdict}", flush=True)
    if call.spark:
        spark = _told("spark", folder, call)
        print(f"Spark     {spark['seconds']:7.1f} s, {call.impressions / spark['seconds']:11,.0f} rows/s", flush=True)


def _beside_feast(folder: Path, call: argparse.Namespace) -> None:
    """Ours and Feast's, in turns, on the same world; the rows are compared."""
    rows = call.peer_impressions
    print(_told("world", folder, call, rows)["world"], flush=True)
    kinds = ("ours", "feast_vectors", "feast_rows")
    told: dict[str, list[dict[str, Any]]] = {kind: [] for kind in kinds}
    gathered: list[float] = []
    for number in range(call.rounds):
        for kind in kinds if number % 2 else reversed(kinds):
            told[kind].append(_told(kind, folder, call))
        checked = _told("check", folder, call)
        gathered.append(checked["gather_seconds"])
    seconds = {kind: statistics.median(each["seconds"] for each in told[kind]) for kind in kinds}
    for kind in kinds:
        peak = statistics.median(each["peak_gib"] for each in told[kind])
        print(f"{kind:13s} {seconds[kind]:7.1f} s, {rows / seconds[kind]:11,.0f} rows/s, peak {peak:.2f} GiB")
    with_vectors = seconds["ours"] + statistics.median(gathered)
    ratio = seconds["feast_vectors"] / seconds["ours"]
    print(f"{checked['rows']:,} rows compared with Feast's, numbers and vectors: equal")
    print(f"Feast with row numbers only: {seconds['feast_rows'] / seconds['ours']:.1f} x our seconds")
    print(f"Feast with vectors, our vectors gathered too: {seconds['feast_vectors'] / with_vectors:.1f} x our seconds")
    verdict = "kept" if ratio >= WANTED_RATIO else "MISSED"
    print(f"Feast with vectors in the row: {ratio:.1f} x our seconds (wanted {WANTED_RATIO:.0f}): {verdict}")


def _told(part: str, folder: Path, call: argparse.Namespace, impressions: int = 0) -> dict[str, Any]:
    """What one part says, run in a process of its own."""
    command = [sys.executable, __file__, "--part", part, "--folder", str(folder), "--dim", str(call.dim)]
    command += ["--impressions", str(impressions), "--memory-gib", str(call.memory_gib)]
    told = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if told.returncode:
        raise SystemExit(f"{part} ended with {told.returncode}")
    facts: dict[str, Any] = json.loads(told.stdout.strip().splitlines()[-1])
    return facts


def ours(folder: Path, call: argparse.Namespace) -> None:
    """The stage as `msd run examples` runs it."""
    _timed(lambda: execute_rows(_fresh_job(folder, call)))


def on_spark(folder: Path, call: argparse.Namespace) -> None:
    """The stage as spark-submit runs it, on this machine's processors; the session's start is not counted."""
    from spark_jobs.examples import execute
    from spark_jobs.session import session, stop

    session().range(1).count()
    _timed(lambda: execute(_fresh_job(folder, call)))
    stop()


def feast(folder: Path, kind: str, wanted: tuple[str, ...]) -> None:
    """Feast's get_historical_features on DuckDB, to Arrow; kept for the comparison."""
    plans = wanted_views(folder)
    write_settings(folder / "feast", None)
    with quiet_feast():
        store = open_store(folder / "feast")
        store.apply([*entities(), *(feature_view(plan, online=False) for plan in plans)])
        features = [f"{plan.name}:{one.name}" for plan in plans for one in plan.features if one.name in wanted]
        events = dataset(folder, "interactions").table(["event_id", "user_id", "item_id", "event_at"])
        frame = events.rename_columns(["event_id", "user_id", "item_id", "event_timestamp"]).to_pandas()
        found: list[pa.Table] = []

        def ask() -> None:
            job = store.get_historical_features(entity_df=frame, features=features, full_feature_names=True)
            found.append(job.to_arrow())

        _timed(ask)
    ordered = found[0].select([name for name in found[0].column_names if "__" in name or name == "event_id"])
    pq.write_table(ordered.sort_by("event_id"), folder / FOUND[kind], compression="none")


def check(folder: Path, call: argparse.Namespace) -> None:
    """Our shards against both of Feast's answers, row by row and vector by vector; the gathering is timed."""
    made = dataset(folder, "examples").table()
    with_vectors, with_rows = (pq.read_table(folder / FOUND[kind]) for kind in ("feast_vectors", "feast_rows"))
    items, users, histories = wanted_views(folder)
    gather_seconds = 0.0
    for plan, name in ((items, "item_vector_row"), (users, "user_vector_row"), (histories, "history_row")):
        column = "history_row" if plan is histories else "vector_row"
        _must_equal(made.column(name), with_rows.column(f"{plan.name}__{column}").cast(pa.int64()), name)
        if plan is histories:
            _must_equal(made.column(name), with_vectors.column(f"{plan.name}__{column}").cast(pa.int64()), name)
            continue
        started = time.monotonic()
        rows_N = made.column(name).fill_null(0).to_numpy()
        vectors_ND = np.load(plan.files.parent / "vectors.npy", mmap_mode="r")[rows_N]
        gather_seconds += time.monotonic() - started
        _must_equal_vectors(made.column(name).is_valid().to_numpy(), vectors_ND, with_vectors[f"{plan.name}__vector"])
    print(json.dumps({"rows": made.num_rows, "gather_seconds": gather_seconds}))


def _must_equal(ours_N: pa.ChunkedArray, theirs_N: pa.ChunkedArray, name: str) -> None:
    if ours_N.combine_chunks() != theirs_N.combine_chunks():
        raise SystemExit(f"{name} differs from Feast's")


def _must_equal_vectors(is_known_N: np.ndarray, vectors_ND: np.ndarray, theirs: pa.ChunkedArray) -> None:
    start = 0
    for chunk in theirs.chunks:
        stop = start + len(chunk)
        known = is_known_N[start:stop]
        if not np.array_equal(chunk.is_valid().to_numpy(zero_copy_only=False), known):
            raise SystemExit("a vector is there for one and not for the other")
        flat = chunk.drop_null().flatten().to_numpy(zero_copy_only=False)
        if not np.array_equal(flat, vectors_ND[start:stop][known].reshape(-1)):
            raise SystemExit("a vector differs from Feast's")
        start = stop


def _timed(work: Callable[[], object]) -> None:
    """Does the work; prints its seconds and the process's peak."""
    started = time.monotonic()
    work()
    seconds = time.monotonic() - started
    print(json.dumps({"seconds": seconds, "peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20}))


def _fresh_job(folder: Path, call: argparse.Namespace) -> Job:
    output = dataset(folder, "examples")
    shutil.rmtree(output.folder, ignore_errors=True)
    output.folder.mkdir(parents=True)
    inputs = {name: dataset(folder, name) for name in BY_NAME["examples"].inputs}
    config = Examples(memory_gib=call.memory_gib)
    source = load_source("movielens-100k")
    return Job(stage=BY_NAME["examples"], config=config, source=source, inputs=inputs, output=output)


PARTS: dict[str, Callable[[Path, argparse.Namespace], None]] = {
    "world": lambda folder, call: print(json.dumps({"world": make_world(folder, call.impressions, call.dim)})),
    "ours": ours,
    "spark": on_spark,
    "feast_vectors": lambda folder, _: feast(folder, "feast_vectors", ("vector", "history_row")),
    "feast_rows": lambda folder, _: feast(folder, "feast_rows", ("vector_row", "history_row")),
    "check": check,
}

if __name__ == "__main__":
    main()
