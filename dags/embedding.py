"""embedding: the student reads every item, user and text of an event, and so does a plain encoder beside it.

Texts that were read on an earlier day in the same space are not read again. The long tables are made in slices, or
inside the executors of a Spark cluster (MSD_EMBED_ON=spark).
"""

from airflow.sdk import PartitionedAssetTimetable

from dags.chain.assets import STUDENT, VECTORS
from dags.chain.build import Flow, build

dag = build(
    Flow(
        name="embedding",
        document=__doc__,
        schedule=PartitionedAssetTimetable(assets=STUDENT),
        stages=(
            "item_vectors",
            "user_vectors",
            "context_vectors",
            "item_text_vectors",
            "user_text_vectors",
            "context_text_vectors",
        ),
        emits=VECTORS,
        deadline_hours=8,
    )
)
