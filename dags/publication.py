"""publication: a generation of features is brought online, judged, and only then given to readers.

The features are written to Feast's offline store and to Redis beside what readers have. The gate stops here when the
vectors fail their checks, when the student's phrase F1 is below its floor, or when a small click model loses more AUC
on the new vectors than is allowed; a person may be asked as well. Then readers are pointed at the generation, and what
they get is compared with what was made: where that fails they are pointed back, and the run fails.
"""

from airflow.sdk import PartitionedAssetTimetable

from dags.chain.assets import PUBLICATION, VECTORS
from dags.chain.build import Flow, build

dag = build(
    Flow(
        name="publication",
        document=__doc__,
        schedule=PartitionedAssetTimetable(assets=VECTORS),
        stages=("item_features", "user_features", "publication"),
        emits=PUBLICATION,
        switches_readers=True,
        deadline_hours=4,
    )
)
