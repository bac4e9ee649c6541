"""canary: once a day, what readers get is compared with what was made, whatever became of the chain.

A sample of online values against the offline ones, the age of the generation, the share of items and users that have a
vector, and the share of texts whose vector was kept. The run fails by the name of the bound that broke.
"""

from airflow.sdk import CronTriggerTimetable

from dags.chain.build import Flow, build_calls
from dags.chain.choices import canary_params
from dags.chain.switching import check_online

dag = build_calls(
    Flow(
        name="canary",
        document=__doc__,
        schedule=CronTriggerTimetable("0 8 * * *", timezone="UTC"),
        stages=(),
        params=canary_params(),
        deadline_hours=1,
    ),
    [check_online],
)
