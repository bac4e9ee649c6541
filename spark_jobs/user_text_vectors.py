"""user_text_vectors inside Spark executors: `spark-submit spark_jobs/user_text_vectors.py` (docs/spark.md)."""

if __name__ == "__main__":
    from spark_jobs.submit import submit

    submit("user_text_vectors")
