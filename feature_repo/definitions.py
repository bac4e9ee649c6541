"""The features as Feast knows them: two entities, four views, one service; types follow `pipeline.schemas`.

A vector view carries the first eight digits of its space in its name, so that two encoders of the same dimension never
share a view. The service `ctr` names the views of the active space without it: `item_vectors`, `user_vectors`.
"""

import glob
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from pipeline import schemas

if TYPE_CHECKING:
    from feast import Entity, FeatureService, FeatureView
    from feast.types import ComplexFeastType, PrimitiveFeastType

OWNER = "msd"
SERVICE = "ctr"
SPACE_DIGITS = 8
USER_HISTORIES = "user_histories"
ITEM_STATS = "item_stats"

_ROW = pa.field("vector_row", pa.int64(), metadata={"doc": "Row of the vector in the publication's vectors.npy."})
_HISTORY_ROW = pa.field("history_row", pa.int64(), metadata={"doc": "Row of the dataset histories."})
ITEM_KEY = schemas.ITEM_VECTORS.field("item_id")
USER_KEY = schemas.USER_VECTORS.field("user_id")
ITEM_VECTOR_FEATURES = (
    schemas.ITEM_VECTORS.field("vector"),
    _ROW,
    schemas.ITEM_VECTORS.field("content_hash"),
)
USER_VECTOR_FEATURES = (
    schemas.USER_VECTORS.field("vector"),
    _ROW,
    schemas.USER_VECTORS.field("content_hash"),
)
USER_HISTORY_FEATURES = (_HISTORY_ROW, schemas.HISTORIES.field("num_events"))
ITEM_STATS_FEATURES = tuple(schemas.ITEM_STATS.field(name) for name in ("exposures", "clicks", "ctr_shrunk"))


@dataclass(frozen=True, kw_only=True, eq=False)
class ViewPlan:
    """One feature view: what it is called, what it holds and where its rows lie."""

    name: str
    key: pa.Field
    features: tuple[pa.Field, ...]
    description: str
    files: Path
    """Folder of the Parquet files with the key, the features, event_timestamp and created."""
    tags: dict[str, str]

    @property
    def source_path(self) -> str:
        """What the offline store reads."""
        return f"{glob.escape(str(self.files))}/*.parquet"

    @property
    def file_schema(self) -> pa.Schema:
        """Columns of the offline files."""
        times = [pa.field(name, schemas.TIME, nullable=False) for name in ("event_timestamp", "created")]
        return pa.schema([self.key, *self.features, *times])


def item_view_name(space_id: str) -> str:
    """The view of a space's item vectors."""
    return f"item_vectors_{space_id[:SPACE_DIGITS]}"


def user_view_name(space_id: str) -> str:
    """The view of a space's user vectors."""
    return f"user_vectors_{space_id[:SPACE_DIGITS]}"


def item_plans(folder: Path, space_id: str) -> tuple[ViewPlan, ViewPlan]:
    """The views of an item publication: vectors and statistics."""
    tags = {"space_id": space_id, "publication": f"{folder.parent.name}/{folder.name}"}
    vectors = ViewPlan(
        name=item_view_name(space_id),
        key=ITEM_KEY,
        features=ITEM_VECTOR_FEATURES,
        description="What the student reads out of an item's text, from when the text was known.",
        files=folder.resolve() / "offline",
        tags=tags,
    )
    stats = ViewPlan(
        name=ITEM_STATS,
        key=ITEM_KEY,
        features=ITEM_STATS_FEATURES,
        description="Exposures and clicks of the training window, from its end on.",
        files=folder.resolve() / ITEM_STATS,
        tags={"publication": tags["publication"]},
    )
    return vectors, stats


def user_plans(folder: Path, space_id: str) -> tuple[ViewPlan, ViewPlan]:
    """The views of a user publication: vectors and row numbers of histories."""
    tags = {"space_id": space_id, "publication": f"{folder.parent.name}/{folder.name}"}
    vectors = ViewPlan(
        name=user_view_name(space_id),
        key=USER_KEY,
        features=USER_VECTOR_FEATURES,
        description="What the student reads out of a user's history, from the history's cut on.",
        files=folder.resolve() / "offline",
        tags=tags,
    )
    histories = ViewPlan(
        name=USER_HISTORIES,
        key=USER_KEY,
        features=USER_HISTORY_FEATURES,
        description="Which row of the dataset histories holds the user's events before a time.",
        files=folder.resolve() / USER_HISTORIES,
        tags={"publication": tags["publication"]},
    )
    return vectors, histories


def entities() -> "list[Entity]":
    """Items and users, known by string keys."""
    from feast import Entity, ValueType

    return [
        Entity(
            name=key.name.removesuffix("_id"),
            join_keys=[key.name],
            value_type=ValueType.STRING,
            description=key.metadata[b"doc"].decode(),
            owner=OWNER,
        )
        for key in (ITEM_KEY, USER_KEY)
    ]


def feature_view(plan: ViewPlan, *, online: bool) -> "FeatureView":
    """The Feast view of a plan; its values never expire."""
    from feast import FeatureView, Field, FileSource

    entity = next(entity for entity in entities() if entity.join_key == plan.key.name)
    source = FileSource(
        name=f"{plan.name}_source",
        path=plan.source_path,
        timestamp_field="event_timestamp",
        created_timestamp_column="created",
        description=f"Rows of {plan.name}, one per key and time of availability.",
        tags=plan.tags,
        owner=OWNER,
    )
    fields = [
        Field(name=field.name, dtype=feast_type(field.type), description=field.metadata[b"doc"].decode())
        for field in (plan.key, *plan.features)
    ]
    return FeatureView(
        name=plan.name,
        entities=[entity],
        ttl=timedelta(0),
        schema=fields,
        source=source,
        online=online,
        description=plan.description,
        tags=plan.tags,
        owner=OWNER,
    )


def feature_service(space_id: str, views: "Sequence[FeatureView]") -> "FeatureService":
    """The service `ctr`: the views of one space, under names without the space's digits."""
    from feast import FeatureService

    suffix = f"_{space_id[:SPACE_DIGITS]}"
    return FeatureService(
        name=SERVICE,
        features=[view.with_name(view.name.removesuffix(suffix)) for view in views],
        description="What the CTR models read, in the active vector space.",
        tags={"space_id": space_id},
        owner=OWNER,
    )


def feast_type(kind: pa.DataType) -> "PrimitiveFeastType | ComplexFeastType":
    """The Feast type of an Arrow type that stands in a feature."""
    from feast import types

    if pa.types.is_list(kind):
        return types.Array(feast_type(kind.value_type))
    known = {
        pa.string(): types.String,
        pa.int64(): types.Int64,
        pa.int8(): types.Int32,
        pa.float32(): types.Float32,
        pa.float64(): types.Float64,
        schemas.TIME: types.UnixTimestamp,
    }
    return known[kind]
