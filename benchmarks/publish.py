"""Publishing vectors to Redis: matrices of bytes beside Feast's own ways, a redis-py pipeline and redis-benchmark.

Claim: 100,000 × 128 float32 in Feast's format go online at least 20 times as fast as with `feast materialize` on its
default offline store, 10 times as fast as with `write_to_online_store`, and at 70% or more of the rate at which
redis-benchmark pipelines an HSET of that value size; memory stays flat from 100,000 rows to a million.

All write to one server, which is flushed before each; rounds alternate, and ratios are of medians. Ours starts from the
files a publication has (keys in Parquet, vectors memory-mapped), as `materialize` does; `write_to_online_store` and
redis-py start from what they need in memory, Feast without its check of stored timestamps (`skip_dedup`), its fastest
setting. redis-benchmark runs with one connection and with fifty, and the better counts: HSET into one hash, which is
its own test, the same command shape as ours, and SET. It comes with Debian's redis-tools; without it on PATH that peer
is left out, which is said.

`python benchmarks/publish.py [--rows 100000] [--dim 128] [--rounds 3] [--large-rows 1000000]` (four minutes, two cores)
"""

import argparse
import shutil
import statistics
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from peers.feast_store import open_feast, quietly

from feature_repo.definitions import ITEM_KEY, ViewPlan
from feature_repo.feast_format import field_name, key_head, time_field, vector_head
from feature_repo.online import write_rows
from feature_repo.redis_address import Redis, RedisKind, connect
from feature_repo.redis_link import link
from feature_repo.redis_server import running_redis
from feature_repo.vector_codec import Codec, Precision
from pipeline import schemas

AT = datetime(2024, 3, 1, tzinfo=UTC)
PROJECT = "bench"
SHARD_ROWS = 50_000
PIPELINE_ROWS = 1_000
WANTED = {"feast materialize, default store": 20.0, "feast write_to_online_store": 10.0}
WANTED_SHARE = 0.7
OURS = "ours"
HSET = "redis-benchmark HSET"
VIEW = ViewPlan(
    name="item_vectors_5eed0001_eeeeeeee",
    key=ITEM_KEY,
    features=(schemas.ITEM_VECTORS.field("vector"),),
    description="",
    files=Path(),
    tags={},
)


def main() -> None:
    """Measures all, prints medians, ratios and memory."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--large-rows", type=int, default=1_000_000, help="of the check of memory; 0 leaves it out")
    parser.add_argument("--write", nargs=2, metavar=("FOLDER", "PORT"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.write:
        write_watched(Path(given.write[0]), int(given.write[1]))
        return
    with tempfile.TemporaryDirectory(prefix="msd-publish-") as folder, running_redis(Path(folder)) as redis:
        with connect(redis) as client:
            # A snapshot in the middle of a round would be somebody's misfortune.
            client.config_set("save", "")
        rates = measure(Path(folder), redis, given)
        print_rates(rates)
        if given.large_rows:
            print_memory(Path(folder), redis, given)


def measure(folder: Path, redis: Redis, given: argparse.Namespace) -> dict[str, float]:
    """Rows per second of each, the median of the rounds."""
    make_files(folder / "small", given.rows, given.dim)
    peers = feast_peers(folder, redis, given)
    peers |= {"redis-py pipelined HSET": redis_py(folder / "small", redis)}
    peers |= redis_benchmarks(redis, given)
    peers |= {OURS: lambda: write_files(folder / "small", redis)}
    seconds: dict[str, list[float]] = {name: [] for name in peers}
    for number in range(given.rounds):
        for name in list(peers)[:: 1 if number % 2 else -1]:
            flush(redis)
            started = time.perf_counter()
            claimed = peers[name]()
            seconds[name].append(claimed or time.perf_counter() - started)
            check_written(name, redis, given.rows)
    return {name: given.rows / statistics.median(taken) for name, taken in seconds.items()}


def check_written(name: str, redis: Redis, rows: int) -> None:
    """Ends where a way of writing left rows out; redis-benchmark's keys are drawn at random, and some twice."""
    with connect(redis) as client:
        written = client.dbsize()
    if written != rows and not name.startswith("redis-benchmark"):
        raise SystemExit(f"{name} wrote {written:,} of {rows:,} rows")


def print_rates(rates: dict[str, float]) -> None:
    """The table, ours against each."""
    for name, rate in sorted(rates.items(), key=lambda pair: pair[1]):
        print(f"{name:36s} {rate:>10,.0f} rows/s   ours / this: {rates[OURS] / rate:6.2f}")
    for name, wanted in WANTED.items():
        ratio = rates[OURS] / rates[name]
        print(f"{ratio:.1f} times {name} (wanted {wanted:.0f}): {'kept' if ratio >= wanted else 'MISSED'}")
    if HSET in rates:
        share = rates[OURS] / rates[HSET]
        print(f"{share:.0%} of {HSET} (wanted {WANTED_SHARE:.0%}): {'kept' if share >= WANTED_SHARE else 'MISSED'}")
    else:
        print("redis-benchmark is not on PATH (Debian: redis-tools): left out")


def make_files(folder: Path, rows: int, dim: int) -> None:
    """keys.parquet and vectors.npy of a publication, and offline.parquet for Feast."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    vectors = np.lib.format.open_memmap(folder / "vectors.npy", "w+", np.float32, (rows, dim))
    with pq.ParquetWriter(folder / "keys.parquet", keys_of(0, 1).schema) as keys:
        for start in range(0, rows, SHARD_ROWS):
            stop = min(start + SHARD_ROWS, rows)
            vectors[start:stop] = rng.standard_normal((stop - start, dim))
            keys.write_table(keys_of(start, stop))
    if rows <= SHARD_ROWS * 4:
        table = pq.read_table(folder / "keys.parquet")
        lists = pa.FixedSizeListArray.from_arrays(pa.array(np.asarray(vectors).reshape(-1)), dim)
        table = table.append_column("vector", lists.cast(pa.list_(pa.float32())))
        pq.write_table(table.append_column("created", table.column("event_timestamp")), folder / "offline.parquet")


def keys_of(start: int, stop: int) -> pa.Table:
    """Ids and times of some rows."""
    times = pa.array([AT] * (stop - start), schemas.TIME)
    return pa.table({"item_id": [f"B{number:09d}" for number in range(start, stop)], "event_timestamp": times})


def write_files(folder: Path, redis: Redis) -> None:
    """Ours: shard by shard from the files."""
    vectors_ND = np.load(folder / "vectors.npy", mmap_mode="r")
    codec = Codec(precision=Precision.FLOAT32, dim=vectors_ND.shape[1], stored_dim=vectors_ND.shape[1])
    start = 0
    with link(redis) as opened:
        for batch in pq.ParquetFile(folder / "keys.parquet").iter_batches(SHARD_ROWS):
            encoded = codec.encode(vectors_ND[start : start + batch.num_rows])
            write_rows(opened, VIEW, pa.Table.from_batches([batch]), encoded, PROJECT)
            start += batch.num_rows


def feast_peers(folder: Path, redis: Redis, given: argparse.Namespace) -> dict[str, Callable[[], Any]]:
    """Feast's three ways, each with a registry of its own that is applied before anything is timed."""
    offline = folder / "small" / "offline.parquet"
    frame = pq.read_table(offline).to_pandas()
    default, duckdb = (open_feast(folder / kind, redis, PROJECT, kind, (VIEW, offline)) for kind in ("file", "duckdb"))
    span = (AT - timedelta(days=1), AT + timedelta(days=1))
    return {
        "feast materialize, default store": quietly(lambda: default.materialize(*span)),
        "feast materialize, DuckDB": quietly(lambda: duckdb.materialize(*span)),
        "feast write_to_online_store": quietly(lambda: duckdb.write_to_online_store(VIEW.name, df=frame)),
    }


def redis_py(folder: Path, redis: Redis) -> Callable[[], None]:
    """The format laid out key by key in plain Python, pipelined."""
    ids = pq.read_table(folder / "keys.parquet").column("item_id").to_pylist()
    vectors_ND = np.load(folder / "vectors.npy")
    head, tail = key_head(ITEM_KEY.name), PROJECT.encode()
    field, stamp = field_name(VIEW.name, "vector"), time_field(VIEW.name)
    value_head = vector_head(is_array=True, num_bytes=vectors_ND.shape[1] * 4)

    def run() -> None:
        from google.protobuf.timestamp_pb2 import Timestamp

        at = Timestamp()
        at.FromDatetime(AT)
        with connect(redis) as client, client.pipeline(transaction=False) as pipe:
            for number, each in enumerate(ids):
                encoded = each.encode()
                key = head + struct.pack("<I", len(encoded)) + encoded + tail
                mapping = {stamp: at.SerializeToString(), field: value_head + vectors_ND[number].tobytes()}
                pipe.hset(key, mapping=mapping)
                if number % PIPELINE_ROWS == PIPELINE_ROWS - 1:
                    pipe.execute()
            pipe.execute()

    return run


def redis_benchmarks(redis: Redis, given: argparse.Namespace) -> dict[str, Callable[[], float]]:
    """redis-benchmark's own tests at the size of our value; each returns the seconds it says it took."""
    binary = shutil.which("redis-benchmark")
    if binary is None:
        return {}
    size = given.dim * 4 + len(vector_head(is_array=True, num_bytes=given.dim * 4))
    shape = ["HSET", "key:__rand_int__", "ffff", "x" * size, time_field(VIEW.name).decode(), "x" * 6]
    tests = {HSET: ["-t", "hset"], "redis-benchmark SET": ["-t", "set"], "redis-benchmark HSET of our shape": shape}
    common = [binary, "-h", redis.host, "-p", str(redis.port), "-n", str(given.rows), "-r", str(given.rows), "--csv"]

    def best(words: list[str]) -> float:
        rates = []
        for connections, pipelined in ((1, 256), (50, 64)):
            flush(redis)
            options = ["-c", str(connections), "-P", str(pipelined), "-d", str(size)]
            told = subprocess.run([*common, *options, *words], capture_output=True, text=True, check=False)
            if told.returncode:
                raise SystemExit(f"redis-benchmark {words[:2]} ended with {told.stdout.strip()} {told.stderr.strip()}")
            rates.append(float(told.stdout.strip().splitlines()[-1].split('","')[1].strip('"')))
        return given.rows / max(rates)

    return {name: lambda words=words: best(words) for name, words in tests.items()}


def print_memory(folder: Path, redis: Redis, given: argparse.Namespace) -> None:
    """Peak memory of a process that does nothing but write, small and large."""
    make_files(folder / "large", given.large_rows, given.dim)
    peaks = {}
    for name, rows in (("small", given.rows), ("large", given.large_rows)):
        flush(redis)
        command = [sys.executable, __file__, "--write", str(folder / name), str(redis.port)]
        told = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
        peaks[name] = float(told[0])
        print(f"{rows:>9,} rows: {told[0]} MiB of its own at most ({told[1]} MiB with mapped files), {told[2]} s")
    print(f"memory at {given.large_rows:,} / at {given.rows:,} rows: {peaks['large'] / peaks['small']:.2f}")


def write_watched(folder: Path, port: int) -> None:
    """Writes, and prints the peak of anonymous memory, of all resident memory, and the seconds."""
    peak, ended = 0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not ended.is_set():
            status = Path("/proc/self/status").read_text(encoding="ascii")
            peak = max(peak, int(status.split("RssAnon:")[1].split()[0]))
            time.sleep(0.002)

    watcher = threading.Thread(target=watch)
    watcher.start()
    started = time.perf_counter()
    write_files(folder, Redis(kind=RedisKind.OWN, host="127.0.0.1", port=port))
    seconds = time.perf_counter() - started
    ended.set()
    watcher.join()
    whole = Path("/proc/self/status").read_text(encoding="ascii").split("VmHWM:")[1].split()[0]
    print(f"{peak / 1024:.0f} {int(whole) / 1024:.0f} {seconds:.1f}")


def flush(redis: Redis) -> None:
    """Empties the server."""
    with connect(redis) as client:
        client.flushall()


if __name__ == "__main__":
    main()
