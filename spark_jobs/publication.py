"""publication with its shards written by Spark's executors: `spark-submit spark_jobs/publication.py` (docs/spark.md).

The driver judges the vectors, chooses the rows, holds the lock, and switches readers over; an executor writes the
shards it is dealt straight into Redis, reads them back and marks them there. One that dies costs the shard it had under
way. The work folder must be one that all machines see, and REDIS_URL must be set on all of them: the work folder's own
server only listens to its own machine.
"""

import os
from collections.abc import Iterator, Sequence

from pyspark.sql import SparkSession

from feature_repo.shard_writer import WriteJob, Written, write_shards
from pipeline.errors import ServiceError
from pipeline.job import Job, load
from pipeline.storage import Outcome
from spark_jobs.session import session


def execute(job: Job) -> Outcome:
    """Makes the dataset publication or tuned_publication, its shards written on the cluster."""
    items, users = (job.inputs[name] for name in job.stage.inputs)
    publish = load(job.stage.maker)
    return publish(job.config, job.output.folder, items, users, write=write_on_spark)


def write_on_spark(job: WriteJob, numbers: Sequence[int]) -> Iterator[Written]:
    """Writes the numbered shards, a task each, as many at once as the cluster has room for.

    Args:
        job: of the generation.
        numbers: of shards that are not in Redis yet.

    Raises:
        ServiceError: executors on other machines could not reach the server.
    """
    spark = session()
    _check_reach(spark)
    if numbers:
        shards = spark.sparkContext.parallelize(list(numbers), len(numbers))
        # Three numbers a shard come back; iterating over them would run one task after the other.
        yield from shards.mapPartitions(lambda part: write_shards(job, list(part))).collect()


def _check_reach(spark: SparkSession) -> None:
    master = str(spark.sparkContext.master)
    if not master.startswith("local") and not os.environ.get("REDIS_URL"):
        raise ServiceError(
            f"publication on {master} needs a Redis that its executors can reach, and REDIS_URL is not set; set it here"
            " and for the workers, in their conf/spark-env.sh: on a command line anybody could read its password"
        )


if __name__ == "__main__":
    from spark_jobs.submit import submit

    submit("publication", execute)
