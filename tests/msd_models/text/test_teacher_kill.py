"""Killed again and again on its way, the teacher asks for nothing twice: counted by the server it asks."""

import signal
import time

import pyarrow as pa
from model_children import end, kill, teach_in
from prompt_rows import prompt_row
from served_model import ServedModel

from pipeline import schemas
from pipeline.config import TeacherOutputs
from pipeline.storage import Outcome, Workspace, commit, write_shard

NUM_ROWS, SHARD_ROWS = 240, 16


def test_three_kills_cost_no_more_than_what_was_on_its_way(fork_child, tmp_path):
    prompts = Workspace(tmp_path).dataset("prompts", "0" * 16, schemas.PROMPTS)
    prompts.folder.mkdir(parents=True)
    rows = [prompt_row(number, f"thing {number}") for number in range(NUM_ROWS)]
    write_shard(prompts.folder / "part-00000.parquet", pa.Table.from_pylist(rows, schema=schemas.PROMPTS))
    commit(prompts, Outcome(rows_in=NUM_ROWS, rows_ok=NUM_ROWS), {})
    with ServedModel(seconds=0.01) as served:
        settings = {"endpoint": served.endpoint, "concurrency": 1, "shard_rows": SHARD_ROWS}
        config = TeacherOutputs(generator="openai", model="any", tokenizer="all-minilm-l6-v2", **settings)
        for part in (0.25, 0.5, 0.75):
            run = fork_child(teach_in, tmp_path, config)
            while run.poll() is None and served.num_answered < part * NUM_ROWS:
                time.sleep(0.005)
            kill(run)
            assert run.returncode == -signal.SIGKILL
        end(fork_child(teach_in, tmp_path, config))
        assert NUM_ROWS <= served.num_answered <= 1.02 * NUM_ROWS
    output = Workspace(tmp_path).dataset("teacher_outputs", "1" * 16, schemas.TEACHER_OUTPUTS)
    made = output.table().to_pylist()
    assert [row["prompt_id"] for row in made] == [row["prompt_id"] for row in rows]
    assert {row["status"] for row in made} == {"ok"}
