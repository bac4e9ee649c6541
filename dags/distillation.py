"""distillation: a small language model learns to say what the teacher said.

Where the day keeps an earlier day's teacher and student (the param refresh_days of teacher_generation), there is
nothing to do and the vectors stay in the same space.
"""

from airflow.sdk import PartitionedAssetTimetable

from dags.chain.assets import STUDENT, TEACHER_OUTPUTS
from dags.chain.build import Flow, build

dag = build(
    Flow(
        name="distillation",
        document=__doc__,
        schedule=PartitionedAssetTimetable(assets=TEACHER_OUTPUTS),
        stages=("student",),
        emits=STUDENT,
        deadline_hours=8,
    )
)
