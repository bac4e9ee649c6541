"""full_refresh: the whole chain of one day in one DAG, by hand.

For a day that is to be made anew (the param again), or whose chain broke and is to be seen in one picture. It makes the
same datasets as the five DAGs of the chain, goes through the same gate, and starts none of them.
"""

from airflow.sdk import DAG

from dags.chain.build import Flow, build
from dags.chain.choices import date_param
from pipeline.stages import REPORTED

dag: DAG = build(
    Flow(
        name="full_refresh",
        document=__doc__,
        schedule=None,
        stages=(*REPORTED, "report"),
        params={"date": date_param()},
        opens_day=True,
        switches_readers=True,
        deadline_hours=48,
    )
)
