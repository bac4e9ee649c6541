"""Throughput of the teacher, everything switched on, beside raw `vllm.LLM.generate` on the same prompts.

Ours is the whole stage as it runs (Parquet in, worked examples, structured output, content store, retries, grounding,
rows out); the peer gets the very same prompts as one list, with the same sampling and schema and vLLM's own defaults.
Each round is a fresh process with a loaded and warmed model; rounds alternate; the ratio is of the medians.

`python benchmarks/teacher_throughput.py [ROWS] [ROUNDS]` (default 192 and 2; about eight minutes on two cores)
"""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from msd_models.answers import JSON_SCHEMA
from msd_models.teacher import Teacher
from msd_models.vllm_generator import VllmGenerator
from pipeline import schemas
from pipeline.config import TeacherOutputs
from pipeline.content_store import ContentStore
from pipeline.runner import make_plan, run
from pipeline.settings import resolve
from pipeline.source import load_source
from pipeline.storage import Workspace

WANTED = 0.95
WARM_ROWS = 8
CONFIG = TeacherOutputs()


def main() -> None:
    """Alternates the two and prints tokens a second of each and the ratio."""
    if sys.argv[1:2] == ["--ours"]:
        print(json.dumps(ours(Path(sys.argv[2]))))
        return
    if sys.argv[1:2] == ["--raw"]:
        print(json.dumps(raw(Path(sys.argv[2]))))
        return
    rows = int(sys.argv[1]) if len(sys.argv) > 1 else 192
    rounds = int(sys.argv[2]) if len(sys.argv) > 2 else 2
    with tempfile.TemporaryDirectory(prefix="msd-throughput-") as folder:
        _make_prompts(Path(folder), rows + WARM_ROWS)
        rates: dict[str, list[float]] = {"raw": [], "ours": []}
        for number in range(rounds):
            for kind in ("raw", "ours") if number % 2 == 0 else ("ours", "raw"):
                command = [sys.executable, __file__, f"--{kind}", folder]
                told = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
                facts = json.loads(told.strip().splitlines()[-1])
                rates[kind].append(facts["tokens"] / facts["seconds"])
                print(f"{kind:5s} {facts['tokens']:6,} tokens in {facts['seconds']:6.1f} s: {rates[kind][-1]:6.1f}/s")
    ratio = statistics.median(rates["ours"]) / statistics.median(rates["raw"])
    print(f"ours / raw LLM.generate: {ratio:.3f} (wanted {WANTED}): {'kept' if ratio >= WANTED else 'MISSED'}")


def ours(folder: Path) -> dict[str, float]:
    """Output tokens and seconds of the stage's own stream."""
    rows = _rows(folder)
    with tempfile.TemporaryDirectory() as kept, ContentStore(Path(kept)) as store:
        teacher = Teacher(CONFIG, store)
        _taught(teacher, rows[:WARM_ROWS])
        started = time.monotonic()
        made = _taught(teacher, rows[WARM_ROWS:])
        seconds = time.monotonic() - started
        teacher.close()
    return {"tokens": sum(row["output_tokens"] for row in made), "seconds": seconds}


def raw(folder: Path) -> dict[str, float]:
    """Output tokens and seconds of one LLM.generate over the same token ids."""
    import os

    from msd_models import vllm_worker

    rows = _rows(folder)
    generator = VllmGenerator(CONFIG)
    with tempfile.TemporaryDirectory() as kept, ContentStore(Path(kept)) as store:
        questions = Teacher(CONFIG, store).questioner.ask(rows)
    prompts = [{"prompt_token_ids": generator._chat_ids(question.prompt)} for question in questions]
    os.environ |= vllm_worker.ENVIRONMENT | {
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_CPU_KVCACHE_SPACE": str(round(CONFIG.kv_cache_gib)),
    }
    from vllm import LLM, SamplingParams
    from vllm.sampling_params import StructuredOutputsParams

    engine = LLM(
        model=str(generator.folder),
        dtype="bfloat16",
        max_model_len=generator._context,
        enforce_eager=True,
        distributed_executor_backend="uni",
        disable_log_stats=True,
        structured_outputs_config={"backend": "xgrammar", "disable_any_whitespace": True},
    )
    sampling = SamplingParams(
        temperature=CONFIG.temperature,
        max_tokens=CONFIG.max_output_tokens,
        frequency_penalty=CONFIG.frequency_penalty,
        structured_outputs=StructuredOutputsParams(json=JSON_SCHEMA),
    )
    given: Any = prompts
    engine.generate(given[:WARM_ROWS], sampling, use_tqdm=False)
    started = time.monotonic()
    made = engine.generate(given[WARM_ROWS:], sampling, use_tqdm=False)
    seconds = time.monotonic() - started
    return {"tokens": sum(len(result.outputs[0].token_ids) for result in made), "seconds": seconds}


def _taught(teacher: Teacher, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    table = pa.Table.from_pylist(rows, schema=schemas.PROMPTS)
    batches = iter(table.to_batches(max_chunksize=CONFIG.shard_rows))
    return [row for batch in teacher.answered(batches) for row in batch.to_pylist()]


def _make_prompts(folder: Path, rows: int) -> None:
    chosen = resolve("small", [f"prompts.item_rows={rows}", "prompts.user_rows=0"])
    plan = make_plan(Workspace(folder), load_source("movielens-100k"), chosen)
    run(plan, ["prompts"])


def _rows(folder: Path) -> list[dict[str, Any]]:
    found = next(path.parent for path in folder.glob("prompts/*/manifest.json"))
    return pa.concat_tables([pq.read_table(path) for path in sorted(found.glob("part-*.parquet"))]).to_pylist()


if __name__ == "__main__":
    main()
