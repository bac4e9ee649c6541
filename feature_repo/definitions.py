"""The features as Feast knows them: entities, five views a generation, one service; types as in `pipeline.schemas`.

A generation is one publication: everything readers see at once. Its views carry eight digits of the publication's
fingerprint, those of vectors also eight of the space, so that neither two encoders of the same dimension nor
yesterday's and today's values share a field in Redis. The service `ctr` names the views of the active generation
without digits: `item_vectors`, `user_vectors`, `item_stats`, `user_stats`, `user_histories`.
"""

import glob
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from feature_repo.vector_codec import Codec
from pipeline import schemas

if TYPE_CHECKING:
    from feast import Entity, FeatureService, FeatureView
    from feast.types import ComplexFeastType, PrimitiveFeastType

OWNER = "msd"
SERVICE = "ctr"
SPACE_DIGITS = 8
GENERATION_DIGITS = 8
ITEM_VECTORS = "item_vectors"
USER_VECTORS = "user_vectors"
USER_HISTORIES = "user_histories"
ITEM_STATS = "item_stats"
USER_STATS = "user_stats"

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
_COUNTS = ("exposures", "clicks", "ctr_shrunk")
ITEM_STATS_FEATURES = tuple(schemas.ITEM_STATS.field(name) for name in _COUNTS)
USER_STATS_FEATURES = tuple(schemas.USER_STATS.field(name) for name in _COUNTS)


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


def view_name(kind: str, space_id: str, generation: str) -> str:
    """What Feast calls a view of a generation.

    Args:
        kind: item_vectors, user_vectors, item_stats, user_stats or user_histories.
        space_id: of the generation's vectors.
        generation: fingerprint of the publication.
    """
    space = f"_{space_id[:SPACE_DIGITS]}" if kind in (ITEM_VECTORS, USER_VECTORS) else ""
    return f"{kind}{space}_{generation[:GENERATION_DIGITS]}"


def item_plans(folder: Path, space_id: str, generation: str = "") -> "tuple[ViewPlan, ViewPlan]":
    """Vectors and statistics of items; without a generation under their plain names, which no registry holds.

    Args:
        folder: of the dataset item_features.
        space_id: of its vectors.
        generation: fingerprint of the publication.
    """
    vectors = _plan(
        ITEM_VECTORS,
        ITEM_KEY,
        ITEM_VECTOR_FEATURES,
        "What the student reads out of an item's text, from when the text was known.",
        folder / "offline",
        (space_id, generation),
    )
    stats = _plan(
        ITEM_STATS,
        ITEM_KEY,
        ITEM_STATS_FEATURES,
        "Exposures and clicks of the training window, from its end on.",
        folder / ITEM_STATS,
        (space_id, generation),
    )
    return vectors, stats


def user_plans(folder: Path, space_id: str, generation: str = "") -> "tuple[ViewPlan, ViewPlan, ViewPlan]":
    """Vectors, row numbers of histories and statistics of users: see item_plans."""
    vectors = _plan(
        USER_VECTORS,
        USER_KEY,
        USER_VECTOR_FEATURES,
        "What the student reads out of a user's history, from the history's cut on.",
        folder / "offline",
        (space_id, generation),
    )
    past = _plan(
        USER_HISTORIES,
        USER_KEY,
        USER_HISTORY_FEATURES,
        "Which row of the dataset histories holds the user's events before a time.",
        folder / USER_HISTORIES,
        (space_id, generation),
    )
    stats = _plan(
        USER_STATS,
        USER_KEY,
        USER_STATS_FEATURES,
        "Events and clicks of the training window, from its end on.",
        folder / USER_STATS,
        (space_id, generation),
    )
    return vectors, past, stats


def _plan(
    kind: str,
    key: pa.Field,
    features: tuple[pa.Field, ...],
    description: str,
    files: Path,
    version: tuple[str, str],
) -> ViewPlan:
    space_id, generation = version
    features_folder = files.parent
    tags = {
        "kind": kind,
        "space_id": space_id,
        "generation": generation,
        "features": f"{features_folder.parent.name}/{features_folder.name}",
    }
    name = view_name(kind, space_id, generation) if generation else kind
    return ViewPlan(name=name, key=key, features=features, description=description, files=files.resolve(), tags=tags)


def coded(plan: ViewPlan, codec: Codec) -> ViewPlan:
    """The plan with its vector as the codec stores it online; offline files hold the whole float32 vector all the same.

    Args:
        plan: of any view; one without a vector stays as it is.
        codec: of the generation.
    """
    if "vector" not in plan.file_schema.names:
        return plan
    meaning = plan.features[0].metadata[b"doc"].decode()
    if not codec.is_array:
        meaning += f" Online {codec.stored_dim} numbers in {codec.precision} as bytes, decoded by the lookup."
    elif codec.stored_dim < codec.dim:
        meaning += f" Online its {codec.stored_dim} principal components, turned back by the lookup."
    vector = pa.field("vector", codec.feature_type, metadata={"doc": meaning})
    tags = plan.tags | {"precision": codec.precision.value, "dimensions": str(codec.stored_dim)}
    return replace(plan, features=(vector, *plan.features[1:]), tags=tags)


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
    """The service `ctr`: the views of one generation, under names without digits."""
    from feast import FeatureService

    return FeatureService(
        name=SERVICE,
        features=[view.with_name(view.tags["kind"]) for view in views],
        description="What the CTR models read, in the active vector space.",
        tags={"space_id": space_id, "generation": views[0].tags["generation"]},
        owner=OWNER,
    )


def feast_type(kind: pa.DataType) -> "PrimitiveFeastType | ComplexFeastType":
    """The Feast type of an Arrow type that stands in a feature."""
    from feast import types

    if pa.types.is_list(kind):
        return types.Array(feast_type(kind.value_type))
    known = {
        pa.string(): types.String,
        pa.binary(): types.Bytes,
        pa.int64(): types.Int64,
        pa.int8(): types.Int32,
        pa.float32(): types.Float32,
        pa.float64(): types.Float64,
        schemas.TIME: types.UnixTimestamp,
    }
    return known[kind]
