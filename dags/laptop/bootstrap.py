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

from dags.chain.names import POOLS, SPARK_CONNECTION

DESCRIPTIONS = {
    "gpu": "stages that run a model: one at a time has the device, or the machine's cores",
    "spark": "Spark jobs under way at once",
}


def main() -> None:
    """Does all of it; running again changes nothing."""
    upgradedb()
    with create_session() as session:
        known = {pool.pool for pool in Pool.get_pools(session=session)}
        session.add_all(pool for pool in _pools() if pool.pool not in known)
        spark = _spark_connection()
        if session.scalar(select(Connection).where(Connection.conn_id == spark.conn_id)) is None:
            session.add(spark)


def _pools() -> list[Pool]:
    """MSD_GPU_SLOTS and MSD_SPARK_SLOTS say more than a laptop has."""
    return [
        Pool(
            pool=name,
            slots=int(os.environ.get(f"MSD_{name.upper()}_SLOTS", slots)),
            description=DESCRIPTIONS[name],
            include_deferred=False,
        )
        for name, slots in POOLS.items()
    ]


def _spark_connection() -> Connection:
    """An absent one would silently mean YARN."""
    return Connection(
        conn_id=SPARK_CONNECTION,
        conn_type="spark",
        host=os.environ.get("MSD_SPARK_MASTER", "local[*]"),
        extra=json.dumps({"deploy-mode": "client"}),
    )


if __name__ == "__main__":
    main()
