"""Labelled events → examples: which vector rows and which history row each could know, joined by Feast point-in-time.

Only row numbers are joined; vectors are gathered later from the memory-mapped file. The join runs on DuckDB, which
pairs every event with all earlier rows of its key before it keeps the latest. A batch is therefore cut so that one join
makes a bounded number of pairs, however long the histories are.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from feature_repo.definitions import ITEM_KEY, USER_KEY, ViewPlan, item_plans, user_plans
from feature_repo.offline import read_keys
from feature_repo.registry import apply_views, check_spaces
from feature_repo.store import feast_home, open_store, quiet_feast, write_settings
from pipeline import schemas
from pipeline.config import Examples
from pipeline.storage import Dataset, conform

if TYPE_CHECKING:
    from feast import FeatureStore

MAX_PAIRS = 4_000_000
"""Event × earlier-row pairs per join: about 0.5 GB."""


@dataclass(frozen=True, kw_only=True)
class Side:
    """What one entity contributes to an example."""

    key: str
    features: dict[str, str]
    """Column of the example → `view:feature`."""
    keys: pa.Array
    """Distinct keys that have any feature row."""
    num_rows: "np.ndarray[tuple[int], np.dtype[np.int64]]"
    """Feature rows of each of them."""


def join_examples(
    batches: Iterator[pa.RecordBatch], config: Examples, item_features: Dataset, user_features: Dataset
) -> Iterator[pa.RecordBatch]:
    """Joins labels to feature rows as of the event, through Feast.

    Args:
        batches: interactions; rows of the split `history` are left out.
        config: of the stage.
        item_features: a committed publication of item vectors.
        user_features: a committed publication of user vectors and histories, of the same space.

    Yields:
        One batch of examples per batch of interactions, rows in the same order.

    Raises:
        SpaceMismatch: the two publications are of different spaces.
    """
    space_id = item_features.details["space_id"]
    check_spaces(space_id, {user_features.name: user_features.details["space_id"]})
    item_views = item_plans(item_features.folder, space_id)
    user_views = user_plans(user_features.folder, space_id)
    home = feast_home(item_features.folder)
    write_settings(home, None)
    with quiet_feast():
        store = open_store(home)
        apply_views(store, [*item_views, *user_views], online=False)
    sides = (_item_side(item_views[0]), _user_side(*user_views[:2]))
    for batch in batches:
        with quiet_feast():
            joined = _join(store, batch.filter(pc.not_equal(batch.column("split"), "history")), sides)
        yield joined


def _item_side(vectors: ViewPlan) -> Side:
    return _side(ITEM_KEY.name, {"item_vector_row": f"{vectors.name}:vector_row"}, vectors)


def _user_side(vectors: ViewPlan, histories: ViewPlan) -> Side:
    features = {
        "user_vector_row": f"{vectors.name}:vector_row",
        "history_row": f"{histories.name}:history_row",
    }
    return _side(USER_KEY.name, features, histories)


def _side(key: str, features: dict[str, str], longest: ViewPlan) -> Side:
    """The side, its pairs counted by the view with the most rows per key."""
    counted = pc.value_counts(read_keys(longest).column(key))
    return Side(key=key, features=features, keys=counted.field("values"), num_rows=counted.field("counts").to_numpy())


def _join(store: "FeatureStore", labels: pa.RecordBatch, sides: tuple[Side, ...]) -> pa.RecordBatch:
    columns = {name: labels.column(name) for name in schemas.EXAMPLES.names if name in labels.schema.names}
    for side in sides:
        pieces = [_join_side(store, piece, side) for piece in _pieces(labels, side)]
        for name in side.features:
            columns[name] = pa.concat_arrays([piece.column(name).combine_chunks() for piece in pieces])
    examples = conform(pa.table(columns), schemas.EXAMPLES).combine_chunks()
    return examples.to_batches()[0] if examples.num_rows else pa.RecordBatch.from_pylist([], schema=schemas.EXAMPLES)


def _pieces(labels: pa.RecordBatch, side: Side) -> Iterator[pa.RecordBatch]:
    """The labels cut where one more would make more than MAX_PAIRS pairs."""
    positions = pc.index_in(labels.column(side.key), value_set=side.keys)
    pairs = np.where(positions.is_valid(), side.num_rows[positions.fill_null(0).to_numpy()], 0) + 1
    piece_of_row = np.cumsum(pairs) // MAX_PAIRS
    cuts = [0, *(np.flatnonzero(np.diff(piece_of_row)) + 1).tolist(), labels.num_rows]
    for start, end in pairwise(cuts):
        yield labels.slice(start, end - start)


def _join_side(store: "FeatureStore", labels: pa.RecordBatch, side: Side) -> pa.Table:
    """The side's columns, in the order of the labels."""
    if not labels.num_rows:
        return pa.table({name: pa.array([], pa.int64()) for name in side.features})
    events = pa.table(
        {
            side.key: labels.column(side.key),
            "event_timestamp": labels.column("event_at"),
            "position": pa.array(np.arange(labels.num_rows)),
        }
    )
    job = store.get_historical_features(
        entity_df=events.to_pandas(), features=list(side.features.values()), full_feature_names=True
    )
    found = job.to_arrow().sort_by("position")
    assert found.num_rows == labels.num_rows, "Feast keeps every row it is asked for"
    names = {name: feature.replace(":", "__") for name, feature in side.features.items()}
    return pa.table({name: found.column(joined).cast(pa.int64()) for name, joined in names.items()})
