"""Several datasets by one spark-submit: `spark-submit spark_jobs/run.py items interactions users --source … --work …`.

A driver, its executors and the first query of a session cost more than a small table: here they are paid once.
"""

if __name__ == "__main__":
    from spark_jobs.submit import submit_several

    submit_several()
