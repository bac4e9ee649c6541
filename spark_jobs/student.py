"""The student trained by Spark's executors, each a process of one torch.distributed group.

`spark-submit --master … spark_jobs/student.py --set student.processes=8 …`: the driver prepares the rows,
judges the epochs and exports; only the training itself runs in a barrier stage, one task a process. The work folder
must be one that all machines see, since a task reads its job and leaves checkpoints there.
"""

from pathlib import Path

from pyspark.ml.torch.distributor import TorchDistributor

from msd_models.distillation_job import work
from msd_models.student import distill
from pipeline.job import Job
from pipeline.progress import Advance
from pipeline.storage import Outcome
from spark_jobs.session import session

GPU_SETTING = "spark.task.resource.gpu.amount"


def execute(job: Job) -> Outcome:
    """Makes the student dataset, its training on the cluster."""
    return distill(job.config, job.output.folder, **job.inputs, source=job.source, launch=launch_on_spark)


def launch_on_spark(job: Path, processes: int, advance: Advance) -> None:
    """Calls `work(job)` in so many tasks at once; Spark tells of steps in its own log only.

    Args:
        job: folder of a prepared training, seen by every executor.
        processes: tasks; the barrier stage waits until the cluster has so many slots.
        advance: is told nothing before the end.
    """
    with_gpus = session().sparkContext.getConf().contains(GPU_SETTING)
    TorchDistributor(num_processes=processes, local_mode=False, use_gpu=with_gpus).run(work, str(job))
    advance(0)


if __name__ == "__main__":
    from spark_jobs.submit import submit

    submit("student", execute)
