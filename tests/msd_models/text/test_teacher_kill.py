"""Killed again and again on its way, the teacher asks for nothing twice: counted by the server it asks."""

import signal
import subprocess
import sys
import time

import pyarrow as pa
import pytest
from prompt_rows import prompt_row
from served_model import ServedModel

from pipeline import schemas
from pipeline.storage import Outcome, Workspace, commit, write_shard

NUM_ROWS, SHARD_ROWS = 240, 16
RUN = """
import sys
from pathlib import Path
from pipeline import schemas
from pipeline.config import TeacherOutputs
from pipeline.job import Job
from pipeline.rows import execute_rows
from pipeline.source import load_source
from pipeline.stages import BY_NAME
from pipeline.storage import Workspace, commit
workspace = Workspace(Path(sys.argv[1]))
output = workspace.dataset("teacher_outputs", "1" * 16, schemas.TEACHER_OUTPUTS)
output.folder.mkdir(parents=True, exist_ok=True)
config = TeacherOutputs(generator="openai", model="any", tokenizer="all-minilm-l6-v2", endpoint=sys.argv[2],
                        concurrency=1, shard_rows=int(sys.argv[3]))
inputs = {"prompts": workspace.dataset("prompts", "0" * 16, schemas.PROMPTS)}
source = load_source("tiny-world")
job = Job(stage=BY_NAME["teacher_outputs"], config=config, source=source, inputs=inputs, output=output)
commit(output, execute_rows(job), {})
"""


@pytest.mark.slow
def test_three_kills_cost_no_more_than_what_was_on_its_way(tmp_path):
    prompts = Workspace(tmp_path).dataset("prompts", "0" * 16, schemas.PROMPTS)
    prompts.folder.mkdir(parents=True)
    rows = [prompt_row(number, f"thing {number}") for number in range(NUM_ROWS)]
    write_shard(prompts.folder / "part-00000.parquet", pa.Table.from_pylist(rows, schema=schemas.PROMPTS))
    commit(prompts, Outcome(rows_in=NUM_ROWS, rows_ok=NUM_ROWS), {})
    with ServedModel(seconds=0.01) as served:
        command = [sys.executable, "-c", RUN, str(tmp_path), served.endpoint, str(SHARD_ROWS)]
        for part in (0.25, 0.5, 0.75):
            run = subprocess.Popen(command)
            while run.poll() is None and served.num_answered < part * NUM_ROWS:
                time.sleep(0.005)
            run.send_signal(signal.SIGKILL)
            assert run.wait() == -signal.SIGKILL
        subprocess.run(command, check=True)
        assert NUM_ROWS <= served.num_answered <= 1.02 * NUM_ROWS
    output = Workspace(tmp_path).dataset("teacher_outputs", "1" * 16, schemas.TEACHER_OUTPUTS)
    made = output.table().to_pylist()
    assert [row["prompt_id"] for row in made] == [row["prompt_id"] for row in rows]
    assert {row["status"] for row in made} == {"ok"}
