"""rollback: by hand, readers are pointed at the generation before the one they have, which is then checked.

Both generations stay where they are; starting it again goes forward again. What a day made is not touched.
"""

from airflow.sdk import DAG

from dags.chain.build import Flow, build_calls
from dags.chain.choices import canary_params
from dags.chain.switching import check_online, roll_back

dag: DAG = build_calls(
    Flow(
        name="rollback",
        document=__doc__,
        schedule=None,
        stages=(),
        params=canary_params(),
        deadline_hours=1,
    ),
    [roll_back, check_online],
)
