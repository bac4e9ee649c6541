"""What teacher_outputs would cost: rows, tokens by the real tokenizer on a sample, seconds at this machine's pace."""

import platform
from collections.abc import Iterator
from itertools import islice
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from msd_models.generators import make_generator
from msd_models.questions import Questioner
from msd_models.teacher import THROUGHPUT, Teacher
from pipeline.config import TeacherOutputs
from pipeline.content_store import ContentStore
from pipeline.errors import StageError
from pipeline.estimate import Estimate
from pipeline.job import Job
from pipeline.progress import note
from pipeline.schemas import PROMPTS
from pipeline.storage import Dataset

SAMPLED_ROWS = 512
MEASURED_ROWS = 16
BATCH_ROWS = 4096


def estimate(job: Job, *, measure: bool = False) -> Estimate:
    """The work that is left of teacher_outputs.

    Args:
        job: whose prompts are committed.
        measure: where this machine's pace is unknown, generate a few rows to learn it; they are kept.

    Raises:
        StageError: prompts is not made yet.
    """
    prompts, config = job.inputs["prompts"], job.config
    if prompts.manifest is None:
        raise StageError("teacher_outputs reads prompts, which is not made yet; run: msd run prompts")
    rows, own = _count(prompts)
    sample = list(_sample(prompts, rows))
    with job.open_store() as store:
        generator = make_generator(config)
        try:
            questions = Questioner(config, generator).ask(sample) if sample else []
            tokens = [generator.count_tokens(question.prompt) for question in questions]
            model = dict(generator.identity())
        finally:
            generator.close()
        kept = store.get_many([question.keys[0] for question in questions])
        fresh = [n for n, question in enumerate(questions) if question.keys[0] not in kept]
        pace = _pace(store, model)
        if pace is None and measure and fresh:
            _measure([sample[n] for n in fresh[:MEASURED_ROWS]], config, store)
            pace = _pace(store, model)
            kept = store.get_many([question.keys[0] for question in questions])
            fresh = [n for n in fresh if questions[n].keys[0] not in kept]
    left = round(own * len(fresh) / len(questions)) if questions else 0
    cut = sum(question.tokens_cut > 0 for question in questions)
    output_tokens, seconds, told = _at_pace(pace, left, config)
    return Estimate(
        rows=rows,
        rows_left=left,
        prompt_tokens=round(left * _mean([tokens[n] for n in fresh])),
        output_tokens=round(left * output_tokens),
        seconds=seconds,
        notes=(
            f"{rows - own:,} of {rows:,} rows are near-duplicates and get another row's output",
            f"prompt tokens: the tokenizer's, on {len(questions):,} rows; {cut:,} of these texts are cut",
            *told,
        ),
    )


def _at_pace(
    pace: dict[str, Any] | None, left: int, config: TeacherOutputs
) -> tuple[float, float | None, tuple[str, str]]:
    """(output tokens a row, seconds in all, how both came about)."""
    if pace is None:
        return (
            float(config.max_output_tokens),
            None,
            (
                "output tokens: max_output_tokens a row, an upper bound",
                "seconds: not known yet on this machine; msd plan teacher_outputs --measure generates a few rows",
            ),
        )
    output_tokens = pace["output_tokens"] / pace["rows"]
    rate = max(pace["rows"] - 1, 1) / max(pace["seconds"] - pace["seconds_to_first"], 1e-9)
    return (
        output_tokens,
        pace["seconds_to_first"] + left / rate if left else 0.0,
        (
            f"output tokens: {output_tokens:.0f} a row, as measured on {pace['rows']:,} completions",
            f"seconds: {pace['seconds_to_first']:.0f} to load, then {rate:.2f} rows a second, as measured here",
        ),
    )


def _count(prompts: Dataset) -> tuple[int, int]:
    """(rows, rows the teacher reads themselves)."""
    rows = own = 0
    for batch in prompts.batches(BATCH_ROWS):
        rows += batch.num_rows
        own += pc.sum(pc.equal(batch.column("prompt_id"), batch.column("representative_id"))).as_py() or 0
    return rows, own


def _sample(prompts: Dataset, rows: int) -> Iterator[dict[str, Any]]:
    """Evenly spaced rows that the teacher reads themselves."""
    step = max(-(-rows // SAMPLED_ROWS), 1)
    own = (
        row
        for batch in prompts.batches(BATCH_ROWS)
        for row in batch.take(pa.array(range(0, batch.num_rows, step))).to_pylist()
        if row["prompt_id"] == row["representative_id"]
    )
    return islice(own, SAMPLED_ROWS)


def _pace(store: ContentStore, model: dict[str, Any]) -> dict[str, Any] | None:
    noted = store.noted(THROUGHPUT)
    is_ours = noted is not None and noted["model"] == model and noted["machine"] == platform.node()
    return noted if is_ours else None


def _measure(rows: list[dict[str, Any]], config: TeacherOutputs, store: ContentStore) -> None:
    note(f"teacher_outputs: generating {len(rows)} rows to measure this machine's pace; they are kept")
    teacher = Teacher(config, store)
    try:
        for _ in teacher.answered(iter(pa.Table.from_pylist(rows, schema=PROMPTS).to_batches())):
            pass
    finally:
        teacher.close()


def _mean(values: list[int]) -> float:
    return sum(values) / len(values) if values else 0.0
