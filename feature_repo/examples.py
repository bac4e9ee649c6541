"""Labelled events → examples: which vector rows and which history row each could know, point-in-time.

Only row numbers are joined, out of the files that Feast's offline store reads; vectors are gathered later from the
memory-mapped file. `spark_jobs/examples.py` makes the same dataset on a cluster.
"""

import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from feature_repo.definitions import item_plans, user_plans
from feature_repo.offline import write_history_files
from feature_repo.point_in_time import Limits, RowNumbers, join_as_of
from feature_repo.registry import check_spaces
from pipeline import schemas
from pipeline.config import Examples
from pipeline.storage import Dataset


def join_examples(batches: Iterator[pa.RecordBatch], config: Examples, **inputs: Dataset) -> Iterator[pa.RecordBatch]:
    """Joins labels to feature rows as of the event.

    Args:
        batches: interactions; rows of the split `history` are left out.
        config: of the stage.
        inputs: item_features and user_features of one space, committed; or, where no arm reads vectors, histories,
            and every vector row is null.

    Yields:
        One batch of examples per batch of interactions, rows in the same order.

    Raises:
        SpaceMismatch: the two are of different spaces.
        ConfigError: a setting is out of its range.
        StageError: a file of the two cannot be read, or memory or disk do not do.
    """
    limits = Limits(memory_gib=config.memory_gib, threads=config.threads, pass_rows=config.pass_rows)
    labels = (batch.filter(pc.not_equal(batch.column("split"), "history")) for batch in batches)
    with tempfile.TemporaryDirectory(prefix="msd-histories-") as scratch:
        for joined in join_as_of(labels, wanted_rows(inputs, Path(scratch)), limits):
            yield _example(joined)


def wanted_rows(inputs: Mapping[str, Dataset], scratch: Path) -> tuple[RowNumbers, ...]:
    """What is joined to a label.

    Args:
        inputs: item_features and user_features, or histories alone.
        scratch: gets a file of the histories' keys and row numbers where they stand alone.

    Raises:
        SpaceMismatch: the two features are of different spaces.
    """
    if "histories" not in inputs:
        return row_numbers(inputs["item_features"], inputs["user_features"])
    _, past, _ = user_plans(scratch, "")
    write_history_files(inputs["histories"], past)
    return (RowNumbers(name="history_row", plan=past, column="history_row"),)


def _example(joined: pa.RecordBatch) -> pa.RecordBatch:
    """The columns of an example; row numbers that were not joined are null."""
    columns = [
        joined.column(field.name) if field.name in joined.schema.names else pa.nulls(joined.num_rows, field.type)
        for field in schemas.EXAMPLES
    ]
    return pa.RecordBatch.from_arrays(columns, schema=schemas.EXAMPLES)


def row_numbers(item_features: Dataset, user_features: Dataset) -> tuple[RowNumbers, ...]:
    """What is joined to a label.

    Raises:
        SpaceMismatch: the two are of different spaces.
    """
    space_id = item_features.details["space_id"]
    check_spaces(space_id, {user_features.name: user_features.details["space_id"]})
    items, _ = item_plans(item_features.folder, space_id)
    users, histories, _ = user_plans(user_features.folder, space_id)
    return (
        RowNumbers(name="item_vector_row", plan=items, column="vector_row"),
        RowNumbers(name="user_vector_row", plan=users, column="vector_row"),
        RowNumbers(name="history_row", plan=histories, column="history_row"),
    )
