"""ctr_training: every arm of the comparison is trained on the day's examples, audited, and reported.

Labels are joined to features as of their own time; the student is tuned by clicks in a space of its own; the audit
names examples that know their future. The report lies under the work folder, in report/.
"""

from airflow.sdk import PartitionedAssetTimetable

from dags.chain.assets import PUBLICATION, REPORT
from dags.chain.build import Flow, build

dag = build(
    Flow(
        name="ctr_training",
        document=__doc__,
        schedule=PartitionedAssetTimetable(assets=PUBLICATION),
        stages=(
            "examples",
            "ctr_records",
            "tuned_student",
            "tuned_item_vectors",
            "tuned_user_vectors",
            "tuned_context_vectors",
            "audit",
            "ctr_model",
            "report",
        ),
        emits=REPORT,
        deadline_hours=24,
    )
)
