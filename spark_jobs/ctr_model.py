"""The arms trained by Spark's executors, each a process of one torch.distributed group.

`spark-submit --master … spark_jobs/ctr_model.py --set ctr_model.processes=8 …`: the driver lines up the arms; each
training runs in a barrier stage, one task a process. The work folder must be one that all machines see: a task streams
the records from it and leaves checkpoints there.
"""

from msd_models.ctr_job import work
from msd_models.train import train_arms
from pipeline.job import Job
from pipeline.storage import Outcome
from spark_jobs.distributor import spark_launcher

launch_on_spark = spark_launcher(work)


def execute(job: Job) -> Outcome:
    """Makes the ctr_model dataset, its trainings on the cluster."""
    return train_arms(job.config, job.output.folder, **job.inputs, launch=launch_on_spark)


if __name__ == "__main__":
    from spark_jobs.submit import submit

    submit("ctr_model", execute)
