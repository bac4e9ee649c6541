"""The arms trained by Spark's executors, each a process of one torch.distributed group.

`spark-submit --master … spark_jobs/ctr_model.py --set ctr_model.processes=8 …`: the driver lines up the arms; each
training runs in a barrier stage, one task a process. The work folder must be one that all machines see: a task streams
the records from it and leaves checkpoints there.
"""

from pathlib import Path

from pyspark.ml.torch.distributor import TorchDistributor

from msd_models.ctr_job import work
from msd_models.train import train_arms
from pipeline.job import Job
from pipeline.progress import Advance
from pipeline.storage import Outcome
from spark_jobs.session import session
from spark_jobs.student import GPU_SETTING


def execute(job: Job) -> Outcome:
    """Makes the ctr_model dataset, its trainings on the cluster."""
    return train_arms(job.config, job.output.folder, **job.inputs, launch=launch_on_spark)


def launch_on_spark(job: Path, processes: int, advance: Advance) -> None:
    """Calls `work(job)` in so many tasks at once; Spark tells of steps in its own log only.

    Args:
        job: folder of one training, seen by every executor.
        processes: tasks; the barrier stage waits until the cluster has so many slots.
        advance: is told nothing before the end.
    """
    with_gpus = session().sparkContext.getConf().contains(GPU_SETTING)
    TorchDistributor(num_processes=processes, local_mode=False, use_gpu=with_gpus).run(work, str(job))
    advance(0)


if __name__ == "__main__":
    from spark_jobs.submit import submit

    submit("ctr_model", execute)
