"""Row-wise stages inside Spark executors: the maker of the stage table, called over whole shards in every task.

A task is dealt a run of shard numbers. It reads their rows from the shared work folder, calls the maker as the runner
does in one process, and writes each shard as soon as it is made; only the shards' numbers come back to the driver. So a
lost executor costs what it had under way: Spark deals its task to another one, which skips the shards that lie there
and finds finished completions of the rest in the log of its share. A task calls the maker once and loads its model
once; there are as many tasks as the cluster runs side by side.
"""

import os
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
from py4j.protocol import Py4JJavaError
from pyspark import TaskContext
from pyspark.errors import PySparkException
from pyspark.sql import SparkSession

from pipeline.errors import StageError
from pipeline.estimate import check_budget
from pipeline.job import Job
from pipeline.log_lines import carried, carry_on, event
from pipeline.progress import note, progress
from pipeline.rows import (
    asks_for_store,
    finish,
    make_missing,
    missing_shards,
    num_shards,
    rows_of_shard,
    settle_shard_size,
)
from pipeline.storage import Outcome
from spark_jobs.session import session

GPU = "gpu"
VISIBLE = "CUDA_VISIBLE_DEVICES"
LOOK_SECONDS = 2.0
"""Between two looks into the folder for the progress line."""


def execute_rows(job: Job) -> Outcome:
    """Makes the missing shards on the executors and counts the rows of all.

    Raises:
        StageError: a task failed on its last attempt, or too many rows were rejected.
        ServiceError: Java is absent or does not start.
    """
    settle_shard_size(job)
    missing = missing_shards(job, range(num_shards(job)))
    if missing:
        check_budget(job)
        # Executors read the index, which nobody may change meanwhile; what they log is folded in when they are done.
        _fold_store(job)
        try:
            _make(session(), replace(job, config=_anchored(job.config)), missing)
        except (PySparkException, Py4JJavaError) as error:
            raise StageError(
                f"{job.stage.name}: Spark failed: {_cause(error)}; what is made stays: the same command goes on there"
            ) from error
        finally:
            _fold_store(job)
    return finish(job)


def _make(spark: SparkSession, job: Job, missing: Sequence[int]) -> None:
    tasks = min(len(missing), _num_places(spark))
    note(f"      {len(missing):,} shards in {tasks} tasks")
    places = spark.range(0, len(missing), 1, tasks)
    with _progress_of(job, missing):
        places.mapInArrow(partial(_make_in_task, job, missing, carried()), "shard bigint").collect()


def _num_places(spark: SparkSession) -> int:
    """Tasks that run side by side: what the user says, else cores over the cores of a task."""
    settings = spark.sparkContext.getConf()
    asked = settings.get("spark.default.parallelism")
    cores_per_task = int(settings.get("spark.task.cpus", "1") or 1)
    return max(1, int(asked) if asked else spark.sparkContext.defaultParallelism // cores_per_task)


def _make_in_task(
    job: Job, missing: Sequence[int], run: Mapping[str, Any], places: Iterator[pa.RecordBatch]
) -> Iterator[pa.RecordBatch]:
    """What an executor runs: makes the shards at those places of `missing` that are still not there."""
    numbers = [missing[place] for batch in places for place in batch.column(0).to_pylist()]
    left = missing_shards(job, numbers)
    context = TaskContext.get()
    assert context is not None
    take_gpus(context)
    carry_on(run, worker=f"task {context.partitionId()}", attempt=context.attemptNumber())
    for number in make_missing(job, left, inbox=f"task-{context.partitionId()}"):
        event("shard written", shard=number, rows=rows_of_shard(job, number))
        yield pa.RecordBatch.from_pydict({"shard": pa.array([number], pa.int64())})


def take_gpus(context: TaskContext) -> None:
    """Shows torch the GPUs that Spark gave the task and no others, where Spark was asked to give any.

    Raises:
        StageError: this worker has torch loaded for another task's GPU, which it cannot change any more.
    """
    given = context.resources().get(GPU)
    if given is None:
        return
    addresses = ",".join(given.addresses)
    if "torch" in sys.modules and os.environ.get(VISIBLE) != addresses:
        raise StageError(
            f"a Python worker that has used GPU {os.environ.get(VISIBLE) or 'all'} was given GPU {addresses};"
            " use --conf spark.python.worker.reuse=false, or executors of one GPU each"
        )
    os.environ[VISIBLE] = addresses


@contextmanager
def _progress_of(job: Job, missing: Sequence[int]) -> Iterator[None]:
    """Shows how many rows lie in the folder, whichever machine put them there."""
    ended = threading.Event()
    with progress(job.stage.name, sum(rows_of_shard(job, number) for number in missing)) as advance:

        def look() -> None:
            left = list(missing)
            while left and not ended.wait(LOOK_SECONDS):
                still = missing_shards(job, left)
                advance(sum(rows_of_shard(job, number) for number in set(left) - set(still)))
                left = still

        watcher = threading.Thread(target=look, daemon=True)
        watcher.start()
        try:
            yield
        finally:
            ended.set()
            watcher.join()


def _fold_store(job: Job) -> None:
    if asks_for_store(job):
        job.open_store().close()


def _anchored(config: Any) -> Any:
    """The settings with files named from the root: an executor stands in another folder than the driver."""
    named = {
        setting.name: getattr(config, setting.name) for setting in fields(config) if setting.metadata.get("content")
    }
    paths = {name: Path(value).expanduser().absolute() for name, value in named.items() if value}
    return replace(config, **{name: str(path) for name, path in paths.items() if path.exists()})


def _cause(error: Exception) -> str:
    """What a maker said, without the traceback around it; else the first line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    said = [line.partition(": ")[2] for line in lines if line.startswith("pipeline.errors.")]
    return (said or lines or [type(error).__name__])[-1 if said else 0]
