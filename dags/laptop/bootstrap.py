"""`python -m dags.laptop.bootstrap`: what the DAGs expect of any Airflow, on a laptop or in a cluster.

Brings the metadata database up to date and makes the pools and the Spark connection where they are absent; what a
person changed by hand stays. The database is that of Airflow's own settings.
"""

import json
import os

from airflow.models.connection import Connection
from airflow.models.pool import Pool
from airflow.utils.db import upgradedb
from airflow.utils.session import create_session
from sqlalchemy import select

CORES_PER_SPARK_JOB = 4


def main() -> None:
    """Does all of it; running again changes nothing."""
    upgradedb()
    with create_session() as session:
        for pool in _pools():
            if Pool.get_pool(pool.pool, session=session) is None:
                session.add(pool)
        spark = _spark_connection()
        if session.scalar(select(Connection).where(Connection.conn_id == spark.conn_id)) is None:
            session.add(spark)


def _pools() -> list[Pool]:
    cores = os.cpu_count() or 1
    return [
        Pool(
            pool="gpu",
            slots=int(os.environ.get("MSD_GPU_SLOTS", 1)),
            description="stages that run a model: one at a time has the device, or the machine's cores",
            include_deferred=False,
        ),
        Pool(
            pool="spark",
            slots=int(os.environ.get("MSD_SPARK_SLOTS", max(1, cores // CORES_PER_SPARK_JOB))),
            description="Spark jobs under way at once",
            include_deferred=False,
        ),
    ]


def _spark_connection() -> Connection:
    """An absent one would silently mean YARN."""
    return Connection(
        conn_id="spark_default",
        conn_type="spark",
        host=os.environ.get("MSD_SPARK_MASTER", "local[*]"),
        extra=json.dumps({"deploy-mode": "client"}),
    )


if __name__ == "__main__":
    main()
