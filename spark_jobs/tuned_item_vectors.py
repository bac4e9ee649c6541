"""tuned_item_vectors inside Spark executors: `spark-submit spark_jobs/tuned_item_vectors.py` (docs/spark.md)."""

if __name__ == "__main__":
    from spark_jobs.submit import submit

    submit("tuned_item_vectors")
