"""A training whose processes are Spark tasks: the same function, nearly the same weights as in this process."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from msd_models.distillation_job import run_training
from msd_models.distillation_rows import training_rows
from msd_models.distillation_training import epoch_file
from msd_models.student_layers import initial_student
from msd_models.student_prompt import prompt_ids
from pipeline.config import Student
from spark_jobs.student import launch_on_spark

WORDS = ("gliders", "drums", "lanterns", "ropes")
SETTINGS = {
    "base_model": "tiny-random",
    "num_layers": 1,
    "epochs": 2,
    "batch_size": 4,
    "dtype": "float32",
    "threads": 1,
}


def train(folder: Path, launch=None, **changes):
    settings = Student(**SETTINGS, **changes)
    taught = [
        {"text": f"{word} {n}", "level": "item", "explicit_phrases": [word], "implicit_phrases": ["fun"]}
        for n in range(3)
        for word in WORDS
    ]
    model, tokenizer = initial_student(settings, [row["text"] for row in taught])
    rows = training_rows(taught, prompt_ids(tokenizer), 64)
    _, training = run_training(model, rows, settings, tokenizer.pad_token_id, folder, launch)
    return load_file(epoch_file(folder, settings.epochs)), training


@pytest.mark.spark
@pytest.mark.slow
def test_two_tasks_train_the_student_of_one_process(spark, tmp_path):
    weights, training = train(tmp_path / "spark", launch_on_spark, processes=2)
    alone, wanted = train(tmp_path / "alone")
    assert training.loss_last == pytest.approx(wanted.loss_last, rel=1e-3)
    assert weights.keys() == alone.keys()
    for name, weight in weights.items():
        torch.testing.assert_close(weight, alone[name], rtol=0, atol=1e-3)
    assert json.loads((tmp_path / "spark" / "job" / "training.json").read_text())["tokens"] == wanted.tokens
