"""Names that others share, without Airflow: the DAGs in their order, pools, the connection, Variables."""

CHAIN = ("teacher_generation", "distillation", "embedding", "publication", "ctr_training")
"""Each is started by the asset of the one before it, for the same day."""
BY_HAND = ("full_refresh", "rollback")
DAILY = ("canary",)
POOLS = {"gpu": 1, "spark": 2}
"""Pools that must be there, with the slots of a laptop; a task of a pool that is not there waits for ever. A small
table is mostly the start of its own Spark, on one core: two side by side take a fifth off the chain's first DAG."""
SPARK_CONNECTION = "spark_default"
VARIABLES = {
    "msd_min_f1": "the least phrase F1 of a student whose vectors may be published",
    "msd_max_auc_loss": "the most AUC that may be lost against the active generation",
    "msd_approval": "true: a person is asked before readers are pointed at a new generation",
    "msd_max_age_hours": "the oldest a generation may be",
    "msd_min_coverage": "the least share of items and users with a vector online",
    "msd_min_hit_rate": "the least share of texts whose vector was kept",
    "msd_rows": "keys the canary compares in each view",
}
"""Bounds where neither a run's params nor the command's own defaults should say them; absent or empty: the command's
default."""
