"""Memory of the teacher stage as the prompts grow from a thousand to a hundred thousand: the peak must not grow.

Everything runs as in a real stage (Parquet in and out, content store, worked examples, grounding), over a scripted
generator, each size in a process of its own. `python benchmarks/teacher_memory.py [LARGEST]`
"""

import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pyarrow as pa

from pipeline import schemas
from pipeline.config import TeacherOutputs
from pipeline.job import Job
from pipeline.rows import execute_rows
from pipeline.source import load_source
from pipeline.stages import BY_NAME
from pipeline.storage import Outcome, Workspace, commit, write_shard

SMALLEST = 1_000
GENRES = ("Action", "Comedy", "Drama", "Horror", "Romance", "Thriller", "War", "Western")
WRITTEN_ROWS = 10_000


def main() -> None:
    """Prints the peak of each size and its ratio to the smallest one's."""
    if sys.argv[1:2] == ["--one"]:
        run_one(int(sys.argv[2]))
        return
    largest = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    sizes = [size for size in (SMALLEST, 10_000, 100_000, 1_000_000) if size <= largest]
    first = None
    for size in sizes:
        told = subprocess.run(
            [sys.executable, __file__, "--one", str(size)], capture_output=True, text=True, check=True
        )
        facts = json.loads(told.stdout)
        first = first or facts["peak_mib"]
        print(
            f"{size:9,} prompts: peak {facts['peak_mib']:7.1f} MiB, {facts['peak_mib'] / first:5.3f} × the first,"
            f" {facts['rows_per_second']:8,.0f} rows/s, {facts['kept']:,} kept",
            flush=True,
        )


def run_one(num_rows: int) -> None:
    """Makes teacher_outputs of that many prompts and prints the process's peak."""
    with tempfile.TemporaryDirectory(prefix="msd-memory-") as folder:
        job = _job(Path(folder), num_rows)
        started = time.monotonic()
        outcome = execute_rows(job)
        seconds = time.monotonic() - started
        assert outcome.rows_ok == num_rows, outcome
        with job.open_store() as store:
            kept = store.num_values()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"peak_mib": peak, "rows_per_second": num_rows / seconds, "kept": kept}))


def _job(folder: Path, num_rows: int) -> Job:
    script = folder / "script.jsonl"
    entries = [
        {"text": f"genres: {genre}", "rationale": "r", "explicit": [genre], "implicit": [f"{genre} night", "friends"]}
        for genre in GENRES
    ]
    script.write_text("\n".join(json.dumps(entry) for entry in entries), encoding="utf-8")
    workspace = Workspace(folder / "work")
    prompts = workspace.dataset("prompts", "0" * 16, schemas.PROMPTS)
    prompts.folder.mkdir(parents=True)
    for shard, start in enumerate(range(0, num_rows, WRITTEN_ROWS)):
        rows = [_row(number) for number in range(start, min(start + WRITTEN_ROWS, num_rows))]
        write_shard(prompts.folder / f"part-{shard:05d}.parquet", pa.Table.from_pylist(rows, schema=schemas.PROMPTS))
    commit(prompts, Outcome(rows_in=num_rows, rows_ok=num_rows), {})
    output = workspace.dataset("teacher_outputs", "1" * 16, schemas.TEACHER_OUTPUTS)
    output.folder.mkdir(parents=True)
    config = TeacherOutputs(generator="scripted", script=str(script))
    stage = BY_NAME["teacher_outputs"]
    return Job(stage=stage, config=config, source=load_source("tiny-world"), inputs={"prompts": prompts}, output=output)


def _row(number: int) -> dict[str, object]:
    genre = GENRES[number % len(GENRES)]
    text = f"Film number {number}\ngenres: {genre}\nyear: {1950 + number % 60}"
    return {
        "prompt_id": f"item:{number}",
        "level": "item",
        "entity_id": str(number),
        "snapshot_at": None,
        "stratum": genre,
        "text": text,
        "representative_id": f"item:{number}",
        "teacher_text": text,
        "inclusion_probability": 1.0,
    }


if __name__ == "__main__":
    main()
