"""One stage as its task, or as its mapped slices and the task that commits them."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from airflow.sdk import BaseOperator
from airflow.sdk.definitions.mappedoperator import MappedOperator

from dags.chain.deployment import Deployment, EmbedOn
from dags.chain.operators import MsdOperator, SparkStageOperator
from pipeline.stages import BY_NAME, Kind, Stage

Task = BaseOperator | MappedOperator
EMBEDDED = ("item_vectors", "user_vectors", "context_vectors")
"""Tables of vectors that a cluster may make; the first two are long enough to be cut into slices elsewhere."""
SLICED = ("teacher_outputs", "item_vectors", "user_vectors")


@dataclass(frozen=True, kw_only=True)
class Room:
    """Where a task runs: its pod template and pool, and how long it may take there."""

    name: str
    pool: str = "default_pool"
    hours: float


SPARK = Room(name="spark", pool="spark", hours=4)
MODELS_GPU = Room(name="models_gpu", pool="gpu", hours=24)
MODELS_CPU = Room(name="models_cpu", hours=4)
FEATURES = Room(name="features", hours=4)
COMMANDS = Room(name="features", hours=0.5)
"""Calls that only look, at what there is."""
STARTS_TEACHER = Room(name="models_gpu", hours=2)
"""The server's own tasks take no slot of the pool: the slices it answers have them."""
ON_CPU = ("teacher_quality", "ctr_records", "report")
"""Stages of the models' room that multiply no large matrices."""


@dataclass(frozen=True, kw_only=True)
class Work:
    """The tasks of one stage: where its inputs' edges end, and where those of its readers begin."""

    first: Task
    last: Task


class Tasks:
    """Makes tasks for one day's key in one deployment, inside the DAG that is being declared."""

    def __init__(self, where: Deployment, date: str) -> None:
        """Takes the deployment and the template of the day."""
        self.where = where
        self.date = date

    def of_stages(self, names: Sequence[str]) -> dict[str, Work]:
        """The tasks of each stage, not yet connected; those of tables that one submission makes are the same one."""
        together = _tables_alone(names) if self.where.tables_together else []
        works = {}
        if len(together) > 1:
            task = self._submit("tables", f"{self.where.spark_jobs}/run.py", together)
            works = {stage.name: Work(first=task, last=task) for stage in together}
        return {stage.name: works.get(stage.name) or self._of_stage(stage) for stage in all_of(names)}

    def _of_stage(self, stage: Stage) -> Work:
        room = self.room_of(stage)
        if room is SPARK:
            task = self._submit(stage.name, f"{self.where.spark_jobs}/{stage.name}.py", [stage])
            return Work(first=task, last=task)
        commit = self.call(stage.name, _call(stage), room=room, stages=(stage.name,), doc_md=_document(stage))
        num_slices = self._num_slices(stage.name)
        return Work(first=self._slices(stage, num_slices, room) if num_slices else commit, last=commit)

    def call(self, task_id: str, arguments: Sequence[str], *, room: Room = COMMANDS, **more: Any) -> MsdOperator:
        """A task that calls the command for the day; `more` goes to the operator."""
        return MsdOperator(task_id=task_id, arguments=list(arguments), **self.common(room), **more)

    def common(self, room: Room) -> dict[str, Any]:
        """What every call of the command is given."""
        return {"command": list(self.where.command), "work": self.where.work, "date": self.date, **self._limits(room)}

    def room_of(self, stage: Stage) -> Room:
        """Where the stage runs."""
        package = stage.maker.partition(".")[0]
        if stage.kind is Kind.TABLE or (stage.name in EMBEDDED and self.where.embed_on is EmbedOn.SPARK):
            return SPARK
        if package == "feature_repo":
            return FEATURES
        return MODELS_CPU if stage.name in ON_CPU else MODELS_GPU

    def _num_slices(self, name: str) -> int:
        if name not in SLICED:
            return 0
        return self.where.teacher_slices if name == "teacher_outputs" else self.where.embedding_slices

    def _slices(self, stage: Stage, num_slices: int, room: Room) -> MappedOperator:
        return MsdOperator.partial(
            task_id=f"{stage.name}_slices",
            stages=(stage.name,),
            map_index_template="{{ task.arguments[-1] }}",
            doc_md=f"{_document(stage)}, a slice of it; a failed slice is tried again by itself",
            **self.common(room),
        ).expand(arguments=[[*_call(stage), f"--slice={number}/{num_slices}"] for number in range(1, num_slices + 1)])

    def _submit(self, task_id: str, application: str, stages: Sequence[Stage]) -> SparkStageOperator:
        return SparkStageOperator(
            task_id=task_id,
            application=application,
            stages=tuple(stage.name for stage in stages),
            where=self.where,
            date=self.date,
            doc_md="; ".join(map(_document, stages)),
            **self._limits(SPARK),
        )

    def _limits(self, room: Room) -> dict[str, Any]:
        limits: dict[str, Any] = {
            "pool": room.pool,
            "execution_timeout": timedelta(hours=room.hours * self.where.time_factor),
        }
        if self.where.pod_templates is not None:
            limits["executor_config"] = {"pod_template_file": str(self.where.pod_templates / f"{room.name}.yaml")}
        return limits


def _call(stage: Stage) -> list[str]:
    if stage.name == "publication":
        # Online and complete; whether readers are pointed at it is for the gate to say.
        return ["publish", "--no-activate"]
    return ["run", stage.name, "--only", "--json"]


def _document(stage: Stage) -> str:
    return f"`{stage.name}`: {stage.summary}"


def _tables_alone(names: Sequence[str]) -> list[Stage]:
    """The tables whose inputs are made elsewhere or are such tables themselves."""
    found: list[Stage] = []
    for stage in all_of(names):
        inputs = set(stage.inputs) & set(names)
        if stage.kind is Kind.TABLE and inputs <= {table.name for table in found}:
            found.append(stage)
    return found


def all_of(names: Sequence[str]) -> list[Stage]:
    """The stages of these names, in the order of the table."""
    unknown = sorted(set(names) - set(BY_NAME))
    assert not unknown, unknown
    return [stage for stage in BY_NAME.values() if stage.name in names]
