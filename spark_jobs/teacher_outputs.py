"""teacher_outputs inside Spark executors: `spark-submit spark_jobs/teacher_outputs.py` (docs/spark.md)."""

if __name__ == "__main__":
    from spark_jobs.submit import submit

    submit("teacher_outputs")
