"""CTR trainings whose processes are Spark tasks: the same function, nearly the same scores as in this process."""

from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
from ctr_datasets import make_ctr_world, write_ctr_records

from msd_models.train import train_arms
from pipeline.config import CtrModel
from pipeline.stages import BY_NAME
from spark_jobs.ctr_model import launch_on_spark

# Without what is random or a batch's own: dropout, and masks; a mean of the history has no moments.
CONFIG = CtrModel(
    arms=("deepfm",), seeds=(1,), max_epochs=2, hidden=(16, 8), embedding_dim=4, dropout=0.0, batch_size=90
)


@pytest.mark.spark
@pytest.mark.slow
def test_two_tasks_train_the_model_of_one_process(spark, tmp_path):
    world = make_ctr_world(tmp_path / "world")
    world["ctr_records"] = write_ctr_records(world)
    inputs = {name: world[name] for name in BY_NAME["ctr_model"].inputs}
    train_arms(CONFIG, tmp_path / "alone", **inputs)
    train_arms(replace(CONFIG, processes=2), tmp_path / "spark", launch=launch_on_spark, **inputs)
    alone, together = (
        pq.read_table(tmp_path / folder / "predictions" / "deepfm-1.parquet").column("score").to_numpy()
        for folder in ("alone", "spark")
    )
    np.testing.assert_allclose(alone, together, atol=2e-4)
    assert alone.std() > 1e-3
