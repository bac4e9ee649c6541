"""What teacher_outputs would cost, and that it does not start above its limits."""

import json

import pyarrow as pa
import pytest
from prompt_rows import prompt_row

from msd_models.teacher_plan import estimate
from pipeline import schemas
from pipeline.config import TeacherOutputs
from pipeline.errors import StageError
from pipeline.job import Job
from pipeline.rows import execute_rows
from pipeline.source import load_source
from pipeline.stages import BY_NAME
from pipeline.storage import Outcome, Workspace, commit, write_shard

NUM_ROWS, NUM_DUPLICATES = 40, 8


@pytest.fixture
def job(tmp_path):
    script = tmp_path / "script.jsonl"
    script.write_text(json.dumps({"text": "thing", "rationale": "r", "explicit": ["thing"], "implicit": ["other"]}))
    workspace = Workspace(tmp_path / "work")

    def _make(rows=NUM_ROWS, fingerprint="1", **settings):
        prompts = workspace.dataset("prompts", fingerprint * 16, schemas.PROMPTS)
        if prompts.manifest is None:
            prompts.folder.mkdir(parents=True)
            made = [thing_row(number) for number in range(rows)]
            write_shard(prompts.folder / "part-00000.parquet", pa.Table.from_pylist(made, schema=schemas.PROMPTS))
            commit(prompts, Outcome(rows_in=rows, rows_ok=rows), {})
        output = workspace.dataset("teacher_outputs", fingerprint * 16, schemas.TEACHER_OUTPUTS)
        output.folder.mkdir(parents=True, exist_ok=True)
        config = TeacherOutputs(generator="scripted", script=str(script), shard_rows=16, **settings)
        return Job(
            stage=BY_NAME["teacher_outputs"],
            config=config,
            source=load_source("tiny-world"),
            inputs={"prompts": prompts},
            output=output,
        )

    return _make


def thing_row(number):
    own = number - number % 5 if number < NUM_DUPLICATES + 2 else number
    return prompt_row(number, f"thing {number}", representative=own, teacher_text=f"thing {own}")


def test_rows_tokens_and_time_before_and_after(job):
    before = estimate(job())
    assert (before.rows, before.rows_left, before.seconds) == (NUM_ROWS, NUM_ROWS - NUM_DUPLICATES, None)
    assert before.prompt_tokens > 40 * before.rows_left
    assert before.output_tokens == before.rows_left * TeacherOutputs().max_output_tokens
    assert any("--measure" in note for note in before.notes)
    assert not job().output.shards()
    execute_rows(job())
    after = estimate(job())
    assert (after.rows, after.rows_left, after.tokens, after.seconds) == (NUM_ROWS, 0, 0, 0.0)
    more = estimate(job(rows=NUM_ROWS + 20, fingerprint="2"))
    assert more.rows_left == 20
    assert more.seconds is not None
    assert more.output_tokens < 20 * TeacherOutputs().max_output_tokens


def test_measuring_generates_a_few_rows_and_keeps_them(job):
    measured = estimate(job(), measure=True)
    assert measured.seconds is not None
    assert measured.rows_left == NUM_ROWS - NUM_DUPLICATES - 16
    with job().open_store() as store:
        assert store.num_values() == 16


@pytest.mark.parametrize(
    ("limits", "words"), [({"max_tokens": 1000}, "max_tokens"), ({"max_seconds": 1e-6}, "max_seco")]
)
def test_over_a_limit_nothing_starts(job, limits, words):
    limited = job(**limits)
    with pytest.raises(StageError, match=rf"would .* for .* rows, and {words}.*nothing was started"):
        execute_rows(limited)
    assert not limited.output.shards()
    assert execute_rows(job(max_tokens=10**9)).rows_ok == NUM_ROWS
    assert execute_rows(limited).rows_ok == NUM_ROWS


def test_too_many_rejects_fail_the_stage_by_name(job, tmp_path):
    (tmp_path / "script.jsonl").write_text(
        json.dumps({"text": "thing 3", "rationale": "r", "explicit": ["thing"], "implicit": ["other"]})
    )
    with pytest.raises(StageError, match=r"teacher_outputs: .* rejected, more than max_rejected_share = 0.2: .* empty"):
        execute_rows(job())
