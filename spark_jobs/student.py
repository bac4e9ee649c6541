"""The student trained by Spark's executors, each a process of one torch.distributed group.

`spark-submit --master … spark_jobs/student.py --set student.processes=8 …`: the driver prepares the rows,
judges the epochs and exports; only the training itself runs in a barrier stage, one task a process. The work folder
must be one that all machines see, since a task reads its job and leaves checkpoints there.
"""

from msd_models.distillation_job import work
from msd_models.student import distill
from pipeline.job import Job
from pipeline.storage import Outcome
from spark_jobs.distributor import spark_launcher

launch_on_spark = spark_launcher(work)


def execute(job: Job) -> Outcome:
    """Makes the student dataset, its training on the cluster."""
    return distill(job.config, job.output.folder, **job.inputs, source=job.source, launch=launch_on_spark)


if __name__ == "__main__":
    from spark_jobs.submit import submit

    submit("student", execute)
