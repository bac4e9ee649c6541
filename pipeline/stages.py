"""The list of datasets and how each is made: read this first.

Data flows from top to bottom; a stage may only name inputs that stand above it. A stage is a function of its input
datasets and its own settings. `kind` says how the runner calls it:

- TABLE     Spark: `make(*DataFrames, config) -> DataFrame`, committed as Parquet by `spark_jobs.execute`
- ROWS      `make(batches, config, **other_inputs)`: an iterator of Arrow batches in, one Arrow batch out for each
            batch in, so that every shard is resumable and the same function runs inside Spark's mapInArrow
- ARTIFACT  `make(config, folder, **inputs) -> Outcome`: writes files (a model, a report) into its folder
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum

import pyarrow as pa

from pipeline import config, schemas


class Kind(StrEnum):
    """How the runner calls a stage."""

    TABLE = "table"
    ROWS = "rows"
    ARTIFACT = "artifact"


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One dataset: its name, what it is made from and by which function."""

    name: str
    summary: str
    inputs: tuple[str, ...]
    kind: Kind
    maker: str
    """`module:function`, imported when the stage runs and not before."""
    config: type
    schema: pa.Schema | None = None
    """None for artifacts, whose files speak for themselves."""
    source_tables: tuple[str, ...] = ()
    """Tables of the source's TOML the maker reads; where there are any, it also takes `source`."""
    package_files: tuple[str, ...] = ()
    """Files and folders of the packages (`msd_models/templates`) whose content is part of the fingerprint."""
    planner: str | None = None
    """`module:function` of a Job that says what the stage would cost, for `msd plan` and for its own limits."""
    heeds_erasures: bool = False
    """True where people who were erased are left out at the door: the list of them is part of the fingerprint."""
    may_be_empty: bool = False
    """True for a table in which no row is a good answer."""
    version: int = 1
    """Raised when the code changes what the stage makes; part of the fingerprint."""


REPORTED = (
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
    "student",
    "item_vectors",
    "user_vectors",
    "context_vectors",
    "item_text_vectors",
    "user_text_vectors",
    "context_text_vectors",
    "item_features",
    "user_features",
    "publication",
    "examples",
    "ctr_records",
    "tuned_student",
    "tuned_item_vectors",
    "tuned_user_vectors",
    "tuned_context_vectors",
    "audit",
    "ctr_model",
)
"""The report shows counts and times of everything before it."""

STAGES: tuple[Stage, ...] = (
    Stage(
        name="items",
        summary="the catalogue, typed and validated",
        inputs=(),
        kind=Kind.TABLE,
        maker="spark_jobs.items:make",
        config=config.Items,
        schema=schemas.ITEMS,
        source_tables=("items",),
    ),
    Stage(
        name="interactions",
        summary="labelled events, split into train, valid and test",
        inputs=("items",),
        kind=Kind.TABLE,
        maker="spark_jobs.interactions:make",
        config=config.Interactions,
        schema=schemas.INTERACTIONS,
        source_tables=("events", "labels", "histories"),
        heeds_erasures=True,
    ),
    Stage(
        name="users",
        summary="everyone who acted, with the profile where there is one",
        inputs=("interactions",),
        kind=Kind.TABLE,
        maker="spark_jobs.users:make",
        config=config.Users,
        schema=schemas.USERS,
        source_tables=("users",),
        heeds_erasures=True,
    ),
    Stage(
        name="item_stats",
        summary="exposures, clicks and ranks, counted on the training window only",
        inputs=("items", "interactions"),
        kind=Kind.TABLE,
        maker="spark_jobs.item_stats:make",
        config=config.ItemStats,
        schema=schemas.ITEM_STATS,
    ),
    Stage(
        name="user_stats",
        summary="what each user did, counted on the training window only",
        inputs=("users", "interactions"),
        kind=Kind.TABLE,
        maker="spark_jobs.user_stats:make",
        config=config.UserStats,
        schema=schemas.USER_STATS,
    ),
    Stage(
        name="histories",
        summary="what a user did, as of each snapshot, strictly before it",
        inputs=("interactions",),
        kind=Kind.TABLE,
        maker="spark_jobs.histories:make",
        config=config.Histories,
        schema=schemas.HISTORIES,
        source_tables=("histories",),
    ),
    Stage(
        name="context_texts",
        summary="the distinct texts of events, such as queries",
        inputs=("interactions",),
        kind=Kind.TABLE,
        maker="spark_jobs.context_texts:make",
        config=config.ContextTexts,
        schema=schemas.CONTEXT_TEXTS,
        source_tables=("events",),
        may_be_empty=True,
    ),
    Stage(
        name="prompts",
        summary="the sampled items and users a teacher will read",
        inputs=("items", "users", "interactions", "item_stats", "histories"),
        kind=Kind.TABLE,
        maker="spark_jobs.prompts:make",
        config=config.Prompts,
        schema=schemas.PROMPTS,
    ),
    Stage(
        name="teacher_outputs",
        summary="the teacher's rationale, explicit and implicit key phrases",
        inputs=("prompts",),
        kind=Kind.ROWS,
        maker="msd_models.teacher:teach",
        config=config.TeacherOutputs,
        schema=schemas.TEACHER_OUTPUTS,
        package_files=("msd_models/templates",),
        planner="msd_models.teacher_plan:estimate",
        version=2,
    ),
    Stage(
        name="teacher_quality",
        summary="how good the teacher's rows are and how far they stand for the catalogue",
        inputs=("teacher_outputs", "prompts", "items", "item_stats"),
        kind=Kind.ARTIFACT,
        maker="msd_models.teacher_quality:examine",
        config=config.TeacherQuality,
        package_files=("msd_models/measures",),
    ),
    Stage(
        name="student",
        summary="a small language model distilled on the teacher's tokens, with its phrase F1",
        inputs=("teacher_outputs", "items", "interactions", "histories", "item_stats"),
        kind=Kind.ARTIFACT,
        maker="msd_models.student:distill",
        config=config.Student,
        package_files=("msd_models/measures", "msd_models/templates/dictionary.toml"),
        version=2,
    ),
    Stage(
        name="item_vectors",
        summary="every item's text, read by the student and pooled",
        inputs=("items", "item_stats", "student"),
        kind=Kind.ROWS,
        maker="msd_models.embed:embed_items",
        config=config.Vectors,
        schema=schemas.ITEM_VECTORS,
        planner="msd_models.vectors_plan:estimate",
    ),
    Stage(
        name="user_vectors",
        summary="users as of their snapshots, read by the student and pooled",
        inputs=("histories", "items", "users", "student"),
        kind=Kind.ROWS,
        maker="msd_models.embed:embed_users",
        config=config.Vectors,
        schema=schemas.USER_VECTORS,
        planner="msd_models.vectors_plan:estimate",
    ),
    Stage(
        name="context_vectors",
        summary="every distinct text of an event, read by the student and pooled",
        inputs=("context_texts", "student"),
        kind=Kind.ROWS,
        maker="msd_models.embed:embed_contexts",
        config=config.Vectors,
        schema=schemas.CONTEXT_VECTORS,
        planner="msd_models.vectors_plan:estimate",
    ),
    Stage(
        name="item_text_vectors",
        summary="placebo: the same item texts under a plain sentence encoder, no teacher",
        inputs=("items", "item_stats"),
        kind=Kind.ROWS,
        maker="msd_models.embed:embed_items",
        config=config.TextVectors,
        schema=schemas.ITEM_VECTORS,
        planner="msd_models.vectors_plan:estimate",
    ),
    Stage(
        name="user_text_vectors",
        summary="placebo: the same user texts under a plain sentence encoder, no teacher",
        inputs=("histories", "items", "users"),
        kind=Kind.ROWS,
        maker="msd_models.embed:embed_users",
        config=config.TextVectors,
        schema=schemas.USER_VECTORS,
        planner="msd_models.vectors_plan:estimate",
    ),
    Stage(
        name="context_text_vectors",
        summary="placebo: the same texts of events under a plain sentence encoder, no teacher",
        inputs=("context_texts",),
        kind=Kind.ROWS,
        maker="msd_models.embed:embed_contexts",
        config=config.TextVectors,
        schema=schemas.CONTEXT_VECTORS,
        planner="msd_models.vectors_plan:estimate",
    ),
    Stage(
        name="item_features",
        summary="item vectors and statistics as Feast's offline store reads them",
        inputs=("item_vectors", "item_stats"),
        kind=Kind.ARTIFACT,
        maker="feature_repo.features:write_items",
        config=config.Features,
        version=2,
    ),
    Stage(
        name="user_features",
        summary="user vectors, statistics and history rows as Feast's offline store reads them",
        inputs=("user_vectors", "histories", "user_stats"),
        kind=Kind.ARTIFACT,
        maker="feature_repo.features:write_users",
        config=config.Features,
        version=2,
    ),
    Stage(
        name="publication",
        summary="receipt: one generation of features, checked, in Feast's registry and in Redis",
        inputs=("item_features", "user_features"),
        kind=Kind.ARTIFACT,
        maker="feature_repo.publication:publish",
        config=config.Publication,
        planner="feature_repo.publication_plan:estimate",
    ),
    Stage(
        name="examples",
        summary="labels joined point-in-time to feature rows",
        inputs=("interactions", "item_features", "user_features"),
        kind=Kind.ROWS,
        maker="feature_repo.examples:join_examples",
        config=config.Examples,
        schema=schemas.EXAMPLES,
        version=2,
    ),
    Stage(
        name="ctr_records",
        summary="the examples as fixed-width records that a training reads as a stream",
        inputs=(
            "examples",
            "histories",
            "items",
            "users",
            "item_stats",
            "context_texts",
            "item_features",
            "user_features",
        ),
        kind=Kind.ARTIFACT,
        maker="msd_models.ctr_records:write_records",
        config=config.CtrRecords,
        source_tables=("events",),
    ),
    Stage(
        name="tuned_student",
        summary="the student's upper layers adapted by the click label, end to end",
        inputs=(
            "ctr_records",
            "student",
            "items",
            "users",
            "histories",
            "context_texts",
            "item_vectors",
            "user_vectors",
            "item_features",
            "user_features",
        ),
        kind=Kind.ARTIFACT,
        maker="msd_models.tuned_student:tune",
        config=config.TunedStudent,
    ),
    Stage(
        name="tuned_item_vectors",
        summary="every item's text again, in the tuned student's own space",
        inputs=("items", "item_stats", "tuned_student"),
        kind=Kind.ROWS,
        maker="msd_models.tuned_vectors:embed_items",
        config=config.TunedVectors,
        schema=schemas.ITEM_VECTORS,
        planner="msd_models.vectors_plan:estimate",
    ),
    Stage(
        name="tuned_user_vectors",
        summary="users as of their snapshots again, in the tuned student's own space",
        inputs=("histories", "items", "users", "tuned_student"),
        kind=Kind.ROWS,
        maker="msd_models.tuned_vectors:embed_users",
        config=config.TunedVectors,
        schema=schemas.USER_VECTORS,
        planner="msd_models.vectors_plan:estimate",
    ),
    Stage(
        name="tuned_context_vectors",
        summary="the texts of events again, in the tuned student's own space",
        inputs=("context_texts", "tuned_student"),
        kind=Kind.ROWS,
        maker="msd_models.tuned_vectors:embed_contexts",
        config=config.TunedVectors,
        schema=schemas.CONTEXT_VECTORS,
        planner="msd_models.vectors_plan:estimate",
    ),
    Stage(
        name="tuned_item_features",
        summary="item vectors of the tuned student's space as Feast's offline store reads them",
        inputs=("tuned_item_vectors", "item_stats"),
        kind=Kind.ARTIFACT,
        maker="feature_repo.features:write_tuned_items",
        config=config.Features,
    ),
    Stage(
        name="tuned_user_features",
        summary="user vectors of the tuned student's space as Feast's offline store reads them",
        inputs=("tuned_user_vectors", "histories", "user_stats"),
        kind=Kind.ARTIFACT,
        maker="feature_repo.features:write_tuned_users",
        config=config.Features,
    ),
    Stage(
        name="tuned_publication",
        summary="receipt: one generation of the tuned student's space",
        inputs=("tuned_item_features", "tuned_user_features"),
        kind=Kind.ARTIFACT,
        maker="feature_repo.publication:publish_tuned",
        config=config.TunedPublication,
        planner="feature_repo.publication_plan:estimate",
    ),
    Stage(
        name="audit",
        summary="rows whose prompt, vector, frequency or history knows their future; none, if all is well",
        inputs=(
            "examples",
            "interactions",
            "histories",
            "items",
            "users",
            "item_stats",
            "prompts",
            "user_vectors",
            "item_vectors",
        ),
        kind=Kind.TABLE,
        maker="spark_jobs.audit:make",
        config=config.Audit,
        schema=schemas.AUDIT,
        source_tables=("labels", "histories"),
        may_be_empty=True,
    ),
    Stage(
        name="ctr_model",
        summary="every arm of the comparison, trained by one loop on the same records",
        inputs=(
            "ctr_records",
            "item_features",
            "user_features",
            "context_vectors",
            "item_text_vectors",
            "user_text_vectors",
            "context_text_vectors",
            "tuned_item_vectors",
            "tuned_user_vectors",
            "tuned_context_vectors",
        ),
        kind=Kind.ARTIFACT,
        maker="msd_models.train:train_arms",
        config=config.CtrModel,
        package_files=("msd_models/arms.toml",),
        version=3,
    ),
    Stage(
        name="canary_model",
        summary="one small arm on a generation's vectors, tried before readers are pointed at it",
        inputs=("ctr_records", "item_features", "user_features"),
        kind=Kind.ARTIFACT,
        maker="msd_models.canary_model:train_canary",
        config=config.CanaryModel,
        package_files=("msd_models/arms.toml",),
    ),
    Stage(
        name="report",
        summary="metrics, intervals and plots: report.json and report.html",
        inputs=REPORTED,
        kind=Kind.ARTIFACT,
        maker="msd_models.report:write_report",
        config=config.Report,
        version=2,
    ),
)

BY_NAME: dict[str, Stage] = {stage.name: stage for stage in STAGES}

READ_FOR: Mapping[str, frozenset[str]] = {
    "student": frozenset(
        {
            "prompts",
            "teacher_outputs",
            "teacher_quality",
            "student",
            "item_vectors",
            "user_vectors",
            "context_vectors",
            "item_features",
            "user_features",
            "publication",
        }
    ),
    "tuned": frozenset({"tuned_student", "tuned_item_vectors", "tuned_user_vectors", "tuned_context_vectors"}),
    "raw_text": frozenset({"item_text_vectors", "user_text_vectors", "context_text_vectors"}),
}
"""Whose vectors → the datasets that a comparison reads for them alone."""
COMPARED = ("examples", "ctr_records", "audit", "ctr_model", "report")
"""Stages whose inputs follow from the vectors that the arms read."""
NEED_VECTORS = frozenset({*READ_FOR["tuned"], "tuned_item_features", "tuned_user_features", "tuned_publication"}) | {
    "canary_model"
}
"""Made from ctr_records that name vectors: no comparison of tabular arms has them."""


def stages_for(sources: Collection[str]) -> dict[str, Stage]:
    """The table as a comparison sees it whose arms read these vectors: what none of them reads is no input.

    Args:
        sources: keys of READ_FOR; empty where every arm is tabular, which needs no language model.
    """
    unread = frozenset[str]().union(*(names for source, names in READ_FOR.items() if source not in sources))
    stages = dict(BY_NAME)
    for name in COMPARED:
        read = tuple(needed for needed in BY_NAME[name].inputs if needed not in unread)
        stages[name] = replace(BY_NAME[name], inputs=read)
    if not sources:
        # The user features hold the rows of histories; without them the labels are joined to the histories themselves.
        stages["examples"] = replace(BY_NAME["examples"], inputs=("interactions", "histories"))
    return stages


def with_ancestors(names: Collection[str], stages: Mapping[str, Stage] = BY_NAME) -> list[Stage]:
    """The named stages and everything they need, in the order of the table."""
    wanted: set[str] = set()
    pending = list(names)
    while pending:
        name = pending.pop()
        if name not in wanted:
            wanted.add(name)
            pending.extend(stages[name].inputs)
    return [stages[stage.name] for stage in STAGES if stage.name in wanted]
