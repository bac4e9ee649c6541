"""Reading the vectors of candidates from Redis: one request of bytes beside Feast's SDK, redis-py and redis-benchmark.

Claim: 500 vectors of 128 float32 come in a tenth of the time that Feast's `get_online_features` takes (p50), in 8 ms at
p99, and in at most three times what redis-benchmark needs for 500 pipelined HGETs of that value size.

All read one server, on which the vectors stand once in Feast's format, written by a publication's own writer; requests
alternate and draw other ids each time, in one process whose loaded modules are left out of garbage collection
(`gc.freeze`), as a server would. Feast answers as its documentation shows, up to the dictionary of lists;
redis-py sends one pipeline of HMGETs without a transaction and decodes with numpy. redis-benchmark tells a rate, of
which the time for one pipeline of as many is taken: it checks and decodes nothing. It comes with Debian's redis-tools;
without it on PATH that peer is left out, which is said.

`python benchmarks/lookup.py [--items 100000] [--dim 128] [--candidates 500] [--requests 300]` (a minute on two cores)
"""

import argparse
import gc
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from peers.feast_store import open_feast, quietly

from feature_repo.definitions import ITEM_KEY, ITEM_VECTORS, USER_VECTORS, ViewPlan, item_plans, view_name
from feature_repo.feast_format import field_name, redis_keys, vector_head
from feature_repo.lookup import VectorLookup
from feature_repo.online import write_rows
from feature_repo.pointer import Pointer, pointer_key
from feature_repo.redis_address import Redis, connect
from feature_repo.redis_link import RedisLink, link
from feature_repo.redis_server import running_redis
from feature_repo.store import quiet_feast
from feature_repo.vector_codec import Codec, Precision
from pipeline import schemas

PROJECT, SPACE, GENERATION = "bench", "5eed0001" * 2, "e" * 16
OURS, FEAST, BENCHMARK = "ours", "feast get_online_features", "redis-benchmark HGET"
FASTER, SLOWEST_MS, TIMES_BENCHMARK = 10.0, 8.0, 3.0
WARM_UP = 5
Ask = Callable[[Sequence[str]], Any]


def main() -> None:
    """Measures all, prints p50, p99 and ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--candidates", type=int, default=500)
    parser.add_argument("--requests", type=int, default=300)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="msd-lookup-") as folder, running_redis(Path(folder)) as redis:
        ids = [f"B{number:09d}" for number in range(given.items)]
        plan = replace(item_plans(Path(), SPACE, GENERATION)[0], features=(schemas.ITEM_VECTORS.field("vector"),))
        with link(redis) as opened, connect(redis) as client:
            vectors_ND = publish(opened, plan, ids, given.dim)
            lookup = VectorLookup(opened, PROJECT)
            asks: dict[str, Ask] = {
                FEAST: feast(Path(folder), redis, plan, vectors_ND),
                "redis-py pipelined HMGET": redis_py(client, plan, given.dim),
                OURS: lambda wanted: lookup.lookup("item", wanted),
            }
            agree(asks, ids, vectors_ND, given.candidates)
            taken = measure(asks, ids, given)
        taken |= redis_benchmark(redis, given)
    print_times(taken, given)


def publish(opened: RedisLink, plan: ViewPlan, ids: list[str], dim: int) -> npt.NDArray[np.float32]:
    """One generation of items as a publication leaves it; returns its vectors."""
    vectors_ND = np.random.default_rng(0).standard_normal((len(ids), dim)).astype(np.float32)
    codec = Codec(precision=Precision.FLOAT32, dim=dim, stored_dim=dim)
    times = pa.array([datetime(2024, 3, 1, tzinfo=UTC)] * len(ids), schemas.TIME)
    write_rows(opened, plan, pa.table({"item_id": ids, "event_timestamp": times}), codec.encode(vectors_ND), PROJECT)
    views = {kind: view_name(kind, SPACE, GENERATION) for kind in (ITEM_VECTORS, USER_VECTORS)}
    pointer = Pointer(generation=GENERATION, space_id=SPACE, dim=dim, codec=codec.to_json(), views=views, folders={})
    opened.ask("SET", pointer_key(PROJECT), pointer.to_bytes())
    return vectors_ND


def feast(folder: Path, redis: Redis, plan: ViewPlan, vectors_ND: npt.NDArray[np.float32]) -> Ask:
    """Feast's SDK on the same values."""
    path = folder / "rows.parquet"
    times = pa.array([datetime(2024, 3, 1, tzinfo=UTC)], schemas.TIME)
    columns = {"item_id": pa.array(["B"]), "vector": pa.array([vectors_ND[0].tolist()], pa.list_(pa.float32()))}
    pq.write_table(pa.table(columns | {"event_timestamp": times, "created": times}), path)
    store = open_feast(folder / "feast", redis, PROJECT, "duckdb", (plan, path))
    features = [f"{plan.name}:vector"]

    def ask(wanted: Sequence[str]) -> list[list[float]]:
        rows = [{ITEM_KEY.name: each} for each in wanted]
        return store.get_online_features(features=features, entity_rows=rows).to_dict()["vector"]

    with quiet_feast():
        quietly(lambda: ask(["B000000000"]))()
    return ask


def redis_py(client: Any, plan: ViewPlan, dim: int) -> Ask:
    """One pipeline, decoded with numpy."""
    field = field_name(plan.name, "vector")
    head = len(vector_head(is_array=True, num_bytes=dim * 4))

    def ask(wanted: Sequence[str]) -> npt.NDArray[np.float32]:
        with client.pipeline(transaction=False) as pipe:
            for key in redis_keys(ITEM_KEY.name, wanted, PROJECT):
                pipe.hmget(key, field)
            return np.stack([np.frombuffer(value, "<f4", offset=head) for (value,) in pipe.execute()])

    return ask


def agree(asks: dict[str, Ask], ids: list[str], vectors_ND: npt.NDArray[np.float32], count: int) -> None:
    """Ends where one of them gives other numbers."""
    rows = np.random.default_rng(1).integers(0, len(ids), count)
    for name, ask in asks.items():
        answer = ask([ids[row] for row in rows])
        found = answer[0] if name == OURS else answer
        if not np.array_equal(np.asarray(found, dtype=np.float32), vectors_ND[rows]):
            raise SystemExit(f"{name} answers other vectors than were written")


def measure(asks: dict[str, Ask], ids: list[str], given: argparse.Namespace) -> dict[str, list[float]]:
    """Milliseconds of each request."""
    rng = np.random.default_rng(2)
    gc.collect()
    gc.freeze()
    taken: dict[str, list[float]] = {name: [] for name in asks}
    with quiet_feast():
        for number in range(given.requests + WARM_UP):
            for name, ask in asks.items():
                wanted = [ids[row] for row in rng.integers(0, len(ids), given.candidates)]
                started = time.perf_counter()
                ask(wanted)
                if number >= WARM_UP:
                    taken[name].append((time.perf_counter() - started) * 1000)
    return taken


def redis_benchmark(redis: Redis, given: argparse.Namespace) -> dict[str, list[float]]:
    """Milliseconds of one pipeline, as the rate of several runs says; keys of its own, which hold the same value."""
    binary = shutil.which("redis-benchmark")
    if binary is None:
        return {}
    value = "x" * (given.dim * 4 + len(vector_head(is_array=True, num_bytes=given.dim * 4)))
    address = [binary, "-h", redis.host, "-p", str(redis.port), "-r", str(given.items), "--csv", "-c", "1"]
    fill = [*address, "-n", str(given.items * 3), "-P", "256", "HSET", "key:__rand_int__", "ffff", value]
    subprocess.run(fill, check=True, capture_output=True)
    read = [
        *address,
        "-n",
        str(given.candidates * 100),
        "-P",
        str(given.candidates),
        "HGET",
        "key:__rand_int__",
        "ffff",
    ]
    taken = []
    for _ in range(5):
        told = subprocess.run(read, check=True, capture_output=True, text=True).stdout
        rate = float(told.strip().splitlines()[-1].split('","')[1].strip('"'))
        taken.append(given.candidates / rate * 1000)
    return {BENCHMARK: taken}


def print_times(taken: dict[str, list[float]], given: argparse.Namespace) -> None:
    """The table and what was claimed."""
    p50 = {name: statistics.median(times) for name, times in taken.items()}
    for name, times in sorted(taken.items(), key=lambda pair: -p50[pair[0]]):
        slow = f"p99 {np.percentile(times, 99):7.2f} ms" if name != BENCHMARK else "(mean of a pipeline)"
        print(f"{name:28s} p50 {p50[name]:7.2f} ms   {slow}   this / ours: {p50[name] / p50[OURS]:6.2f}")
    p99 = float(np.percentile(taken[OURS], 99))
    ratio = p50[FEAST] / p50[OURS]
    print(f"{given.candidates} candidates × {given.dim}")
    print(f"{ratio:.1f} times as fast as Feast (wanted {FASTER:.0f}): {'kept' if ratio >= FASTER else 'MISSED'}")
    print(f"p99 {p99:.2f} ms (wanted at most {SLOWEST_MS:.0f}): {'kept' if p99 <= SLOWEST_MS else 'MISSED'}")
    if BENCHMARK in p50:
        times = p50[OURS] / p50[BENCHMARK]
        verdict = "kept" if times <= TIMES_BENCHMARK else "MISSED"
        print(f"{times:.1f} times {BENCHMARK} (wanted at most {TIMES_BENCHMARK:.0f}): {verdict}")
    else:
        print("redis-benchmark is not on PATH (Debian: redis-tools): left out")


if __name__ == "__main__":
    main()
