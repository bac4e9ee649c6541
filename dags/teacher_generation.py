"""teacher_generation: the day is opened, its tables are made, and the teacher reads a sample of them.

Every night at two the day before is opened: its source, settings and the fingerprint of every dataset are recorded
under its key, and all later DAGs go by that record. Spark makes the tables; the teacher's rows are made in slices, of
which only a failed one is tried again. Started by hand, it needs a partition key (YYYY-MM-DD), and its form says what
the day is opened with.
"""

from airflow.sdk import CronPartitionTimetable

from dags.chain.assets import TEACHER_OUTPUTS
from dags.chain.build import Flow, build

dag = build(
    Flow(
        name="teacher_generation",
        document=__doc__,
        schedule=CronPartitionTimetable("0 2 * * *", timezone="UTC", key_format="%Y-%m-%d", run_offset=-1),
        stages=(
            "items",
            "interactions",
            "users",
            "item_stats",
            "user_stats",
            "histories",
            "context_texts",
            "prompts",
            "teacher_outputs",
            "teacher_quality",
        ),
        emits=TEACHER_OUTPUTS,
        opens_day=True,
        deadline_hours=8,
    )
)
