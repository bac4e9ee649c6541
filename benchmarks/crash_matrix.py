"""Kill −9 at random moments of embedding and publishing, with a reader beside that never stops asking.

A world is published once. Then another generation of the same space is embedded and published (texts cut shorter, so
that every vector differs), and the process is killed at a random moment of that, again and again; whenever it gets
through, its datasets and the generation are thrown away and it starts over. All the while a reader asks for every item
and user at once and compares what it gets with both generations.

Wanted: no answer that mixes two generations or lacks an entity, and in the end the same rows as an undisturbed run,
each once, offline and in Redis.

`python benchmarks/crash_matrix.py [--kills 20] [--seed 0]` (about eight minutes on two cores)
"""

import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import typer

from feature_repo.lookup import vector_lookup
from feature_repo.redis_address import connect
from feature_repo.redis_server import running_redis
from pipeline.call import plan_of
from pipeline.runner import Plan

SOURCE = ["--source", "tiny-world", "--preset", "tiny-world"]
SMALL_SHARDS = ["item_vectors.shard_rows=64", "user_vectors.shard_rows=128", "publication.shard_rows=64"]
MEANT = ["publication.max_drift=2", "publication.max_duplicate_share=1"]
"""Vectors of the same texts that have moved, or that many share, are refused unless they are meant."""
SHORTER = ["item_vectors.max_tokens=11", "user_vectors.max_tokens=24", *MEANT]
MADE_ANEW = ("item_vectors", "user_vectors", "item_features", "user_features", "publication")
Truth = dict[str, dict[str, npt.NDArray[np.float32]]]
"""Entity → id → vector, of one generation."""


@dataclass
class Reader:
    """Asks without a pause in a thread of its own; counts answers by the generation they are of."""

    work: Path
    truths: dict[str, Truth]
    seen: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    ended: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        """Asks for everything until `ended`."""
        first = next(iter(self.truths.values()))
        ids = {entity: list(first[entity]) for entity in ("item", "user")}
        wanted = {name: _matrices(truth, ids) for name, truth in self.truths.items()}
        with vector_lookup(self.work) as lookup:
            while not self.ended.is_set():
                users, items = lookup.lookup_both(ids["user"], ids["item"])
                answer = (users[0], items[0])
                names = [name for name, (user, item) in wanted.items() if _same(answer, (user, item))]
                if names and users[1].all() and items[1].all():
                    self.seen[names[0]] += 1
                else:
                    self.faults.append(_told(answer, wanted))
                time.sleep(0.005)


def main(
    kills: Annotated[int, typer.Option("--kills", min=1, help="How often the process is killed.")] = 20,
    seed: Annotated[int, typer.Option("--seed", help="Of the moments.")] = 0,
) -> None:
    """Kills, lets the last run through, compares and prints."""
    moments = random.Random(seed)
    with tempfile.TemporaryDirectory(prefix="msd-crash-") as folder:
        work = Path(folder) / "work"
        _publish(work, [])
        first, second = plan_of(work, None, None, SMALL_SHARDS), plan_of(work, None, None, SMALL_SHARDS + SHORTER)
        with running_redis(work):
            started = time.monotonic()
            _publish(work, SHORTER)
            seconds = time.monotonic() - started
            truths = {"before": _truth(first), "after": _truth(second)}
            undisturbed = _rows(second), _online(work)
            _start_over(work, second)
            reader = Reader(work=work, truths=truths)
            thread = threading.Thread(target=reader.run, daemon=True)
            thread.start()
            stages = _kill_again_and_again(work, second, kills, seconds, moments)
            _publish(work, SHORTER)
            time.sleep(0.5)
            reader.ended.set()
            thread.join()
            ended = _rows(second), _online(work)
    _print(stages, seconds, reader, undisturbed == ended)


def _kill_again_and_again(work: Path, plan: Plan, kills: int, seconds: float, moments: random.Random) -> Counter[str]:
    """Which stage each kill met."""
    met: Counter[str] = Counter()
    while met.total() < kills:
        process = subprocess.Popen(_command(work, SHORTER), stderr=subprocess.PIPE, text=True, start_new_session=True)
        time.sleep(moments.uniform(0.1, 1.0) * seconds)
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            met[_stage_under_way(plan)] += 1
            print(f"kill {met.total()} of {kills}", file=sys.stderr)
        process.communicate()
        if plan.dataset("publication").manifest is not None:
            _start_over(work, plan)
    return met


def _stage_under_way(plan: Plan) -> str:
    return next((name for name in MADE_ANEW if plan.dataset(name).manifest is None), "after the last one")


def _start_over(work: Path, plan: Plan) -> None:
    """Readers go back to the first generation; the second is taken away, vectors that were kept included."""
    _msd(work, "publish", "--rollback")
    _msd(work, "publish", "--collect", "--grace-hours", "0")
    for name in MADE_ANEW:
        shutil.rmtree(plan.dataset(name).folder, ignore_errors=True)
    shutil.rmtree(work / "kept_vectors", ignore_errors=True)


def _publish(work: Path, overrides: list[str]) -> None:
    subprocess.run(_command(work, overrides), check=True, stderr=subprocess.DEVNULL)


def _command(work: Path, overrides: list[str]) -> list[str]:
    settings = [word for override in SMALL_SHARDS + overrides for word in ("--set", override)]
    return [sys.executable, "-m", "pipeline", "run", "publication", *SOURCE, *settings, "--work", str(work)]


def _msd(work: Path, *words: str) -> None:
    subprocess.run(
        [sys.executable, "-m", "pipeline", *words, "--work", str(work)], check=True, stdout=subprocess.DEVNULL
    )


def _truth(plan: Plan) -> Truth:
    """What readers of the plan's generation must get: of each entity the latest vector."""
    truth: Truth = {}
    for entity, stage in (("item", "item_features"), ("user", "user_features")):
        folder = plan.dataset(stage).folder
        rows = pq.read_table(folder / "rows.parquet").to_pylist()
        vectors_ND = np.load(folder / "vectors.npy")
        ordered = sorted(rows, key=lambda row: row.get("snapshot_at", row["vector_row"]))
        truth[entity] = {row[f"{entity}_id"]: vectors_ND[row["vector_row"]] for row in ordered}
    return truth


def _rows(plan: Plan) -> list[list[dict[str, object]]]:
    """Every row of both vector tables, in one order."""
    tables: list[pa.Table] = [plan.dataset(name).table() for name in ("item_vectors", "user_vectors")]
    return [sorted(table.to_pylist(), key=lambda row: str(list(row.values())[:2])) for table in tables]


def _online(work: Path) -> dict[bytes, dict[bytes, bytes]]:
    """Every feature value in Redis; the marks of publications, which hold times, are left out."""
    with running_redis(work) as redis, connect(redis) as client:
        keys = [key for key in client.scan_iter(count=1000) if not key.startswith(b"msd:")]
        return {key: client.hgetall(key) for key in keys}


def _matrices(truth: Truth, ids: dict[str, list[str]]) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    user, item = (np.stack([truth[entity][each] for each in ids[entity]]) for entity in ("user", "item"))
    return user, item


def _same(answer: tuple[np.ndarray, np.ndarray], wanted: tuple[np.ndarray, np.ndarray]) -> bool:
    return all(np.array_equal(got, want) for got, want in zip(answer, wanted, strict=True))


def _told(answer: tuple[np.ndarray, np.ndarray], wanted: dict[str, tuple[np.ndarray, np.ndarray]]) -> str:
    shares = {
        name: [float((got == want).all(axis=1).mean()) for got, want in zip(answer, both, strict=True)]
        for name, both in wanted.items()
    }
    return f"rows equal to each generation's (users, items): {shares}"


def _print(stages: Counter[str], seconds: float, reader: Reader, is_same: bool) -> None:
    print(f"an undisturbed run takes {seconds:.1f} s; killed {stages.total()} times, in {dict(stages)}")
    print(f"{reader.seen.total():,} answers: {dict(reader.seen)}; mixed or incomplete: {len(reader.faults)}")
    for fault in reader.faults[:3]:
        print(f"  {fault}")
    print(f"vectors and Redis as after an undisturbed run, nothing lost, nothing doubled: {'yes' if is_same else 'NO'}")
    sys.exit(0 if is_same and not reader.faults else 1)


if __name__ == "__main__":
    typer.run(main)
