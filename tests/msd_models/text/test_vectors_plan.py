"""What a table of vectors would cost, before and after it and a changed catalogue are made."""

import numpy as np
import pytest
from vector_world import commit_inputs, long_texts, plan_in

from msd_models.encoders import make_encoder
from msd_models.vectors_plan import LOOKED_AT_ROWS, estimate
from pipeline.config import Vectors
from pipeline.errors import StageError
from pipeline.runner import make_job, run
from pipeline.stages import BY_NAME

NUM_ITEMS = 40
SETTINGS = ("item_vectors.dtype=float32", "item_vectors.engine=plain", "item_vectors.shard_rows=8")


def job_in(root, texts, *more):
    plan = plan_in(root, *SETTINGS, *more)
    commit_inputs(plan, texts)
    return plan, make_job(plan, BY_NAME["item_vectors"])


def test_everything_is_left_then_nothing_then_what_changed(tmp_path):
    texts = [*long_texts(NUM_ITEMS, words=10), "the same", "the same"]
    plan, job = job_in(tmp_path, texts)
    before = estimate(job)
    assert (before.rows, before.rows_left, before.output_tokens) == (NUM_ITEMS + 2, NUM_ITEMS + 1, 0)
    encoder = make_encoder(Vectors(dtype="float32"), job.inputs["student"])
    assert before.prompt_tokens == sum(encoder.count_tokens(sorted(set(texts)), keep_end=False))
    assert before.seconds is None
    assert before.bytes == (NUM_ITEMS + 2) * encoder.dimension * 4
    assert "msd plan item_vectors --measure" in before.notes[-1]
    run(plan, ["item_vectors"])
    made = estimate(job)
    assert (made.rows_left, made.prompt_tokens, made.seconds) == (0, 0, 0.0)
    assert plan.dataset("item_vectors").details["texts_read"] == before.rows_left
    assert plan.dataset("item_vectors").details["tokens_read"] == before.prompt_tokens

    again = make_job(plan_in(tmp_path, *SETTINGS, "item_vectors.max_tokens=30"), BY_NAME["item_vectors"])
    assert estimate(again).rows_left == NUM_ITEMS + 1
    assert estimate(again).seconds > 0


def test_measuring_reads_a_few_texts_and_keeps_them(tmp_path):
    _, job = job_in(tmp_path, long_texts(300, words=5))
    measured = estimate(job, measure=True)
    assert measured.rows_left == 300 - 256
    assert measured.seconds > 0
    assert estimate(job).rows_left == measured.rows_left
    _, halved = job_in(tmp_path, long_texts(300, words=5), "item_vectors.processes=2")
    assert estimate(halved).seconds < measured.seconds


def test_of_a_large_table_an_even_part_stands_for_all(tmp_path):
    number = 2 * LOOKED_AT_ROWS
    _, job = job_in(tmp_path, [f"text {n // 2}" for n in range(number)])
    planned = estimate(job)
    assert planned.rows == number
    assert np.isclose(planned.rows_left, number // 2, rtol=0.01)
    assert any("evenly spaced rows were looked at" in told for told in planned.notes)


def test_an_input_that_is_not_made_is_named(tmp_path):
    plan = plan_in(tmp_path)
    with pytest.raises(StageError, match="run: msd run items item_stats student"):
        estimate(make_job(plan, BY_NAME["item_vectors"]))
