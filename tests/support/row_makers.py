"""Makers of item_vectors that need no model, in a file of their own: a worker process imports it by name."""

import json
import os
import signal
import time
from dataclasses import replace
from pathlib import Path

import pyarrow as pa

from pipeline import schemas
from pipeline.errors import StageError
from pipeline.progress import note
from pipeline.runner import Plan, make_plan
from pipeline.settings import resolve
from pipeline.source import load_source
from pipeline.stages import BY_NAME, Stage
from pipeline.storage import Outcome, Workspace, commit, write_shard

NUM_ITEMS, SHARD_ROWS = 13, 2
TOML = '[items]\npath = "items.csv"\n[events]\npath = "events.csv"\n[users]\npath = "users.csv"\n'


def plan_in(root: Path, work: str = "work", processes: int = 1, shard_rows: int = SHARD_ROWS) -> Plan:
    """A plan whose inputs of item_vectors are committed."""
    for name in ("items", "events", "users"):
        (root / f"{name}.csv").write_text(f"{name}\n1\n")
    (root / "mine.toml").write_text(TOML)
    settings = (f"item_vectors.shard_rows={shard_rows}", f"item_vectors.processes={processes}")
    plan = make_plan(Workspace(root / work), load_source(str(root / "mine.toml")), resolve("tiny", settings))
    rows = [
        {"item_id": str(n), "title": "", "text": str(root), "category": "", "attributes": [], "available_at": None}
        for n in range(NUM_ITEMS)
    ]
    for name in ("items", "item_stats", "student"):
        dataset = plan.dataset(name)
        dataset.folder.mkdir(parents=True, exist_ok=True)
        if name == "items":
            write_shard(dataset.folder / "part-00000.parquet", pa.Table.from_pylist(rows, schema=schemas.ITEMS))
        commit(dataset, Outcome(), {})
    return plan


def stage_of(maker: str) -> Stage:
    return replace(BY_NAME["item_vectors"], maker=f"row_makers:{maker}")


def answer(batches, config, item_stats, student):
    for batch in batches:
        yield answered(batch)


def show_resources(batches, config, item_stats, student):
    for batch in batches:
        yield answered(batch, f"{os.environ['OMP_NUM_THREADS']} {os.environ['CUDA_VISIBLE_DEVICES']}")


def speak(batches, config, item_stats, student):
    for batch in batches:
        note("a batch comes", "warning")
        yield answered(batch)


def refuse(batches, config, item_stats, student):
    for batch in batches:
        if "7" in batch.column("item_id").to_pylist():
            raise StageError("row 7 cannot be read; leave it out")
        yield answered(batch)


def crash(batches, config, item_stats, student):
    for batch in batches:
        yield answered(batch, str(1 // (int(batch.column("item_id")[0].as_py()) % 2)))


def die_once(batches, config, item_stats, student):
    """Killed before the shard a file `kill-at-N` names, once it is half the way through its share."""
    for batch in batches:
        root = Path(batch.column("text")[0].as_py())
        told = root / f"kill-at-{int(batch.column('item_id')[0].as_py()) // 2 + 1}"
        if told.exists():
            told.unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        yield answered(batch)


def linger(batches, config, item_stats, student):
    batch = next(batches)
    (Path(batch.column("text")[0].as_py()) / f"lingering-{os.getpid()}").touch()
    time.sleep(600)
    yield answered(batch)


def answered(batch: pa.RecordBatch, said: str = "said") -> pa.RecordBatch:
    rows = [
        {"item_id": item, "vector": [1.0], "space_id": said, "content_hash": "", "available_at": 0}
        for item in batch.column("item_id").to_pylist()
    ]
    facts = {b"facts": json.dumps({"processes": 1}).encode()}
    return pa.RecordBatch.from_pylist(rows, schema=schemas.ITEM_VECTORS).replace_schema_metadata(facts)
