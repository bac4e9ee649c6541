"""The GPUs of a Spark task are those torch sees in its worker, or the task ends with a sentence."""

import os

import pytest
import torch
from pyspark.resource import ResourceInformation

from pipeline.errors import StageError
from spark_jobs.rows import VISIBLE, take_gpus

pytestmark = pytest.mark.spark


class Task:
    """As much of a TaskContext as is asked."""

    def __init__(self, *addresses: str) -> None:
        self.addresses = list(addresses)

    def resources(self) -> dict[str, ResourceInformation]:
        return {"gpu": ResourceInformation("gpu", self.addresses)} if self.addresses else {}


def test_a_task_without_gpus_changes_nothing(monkeypatch):
    monkeypatch.setenv(VISIBLE, "7")
    take_gpus(Task())
    assert os.environ[VISIBLE] == "7"


def test_a_worker_that_has_torch_loaded_keeps_its_gpu_or_says_so(monkeypatch):
    assert torch.__version__
    monkeypatch.setenv(VISIBLE, "2,3")
    take_gpus(Task("2", "3"))
    assert os.environ[VISIBLE] == "2,3"
    with pytest.raises(
        StageError, match=r"has used GPU 2,3 was given GPU 1; use --conf spark.python.worker.reuse=false"
    ):
        take_gpus(Task("1"))
    monkeypatch.delenv(VISIBLE)
    with pytest.raises(StageError, match="has used GPU all"):
        take_gpus(Task("0"))
