"""tuned_publication with its shards written by Spark's executors, as spark_jobs/publication.py does."""

from spark_jobs.publication import execute

if __name__ == "__main__":
    from spark_jobs.submit import submit

    submit("tuned_publication", execute)
