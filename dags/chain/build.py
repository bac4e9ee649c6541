"""A DAG from the names of its stages: their tasks, an edge where one reads another's dataset, a first and a last task.

The first task opens the day, or checks that it is open; without a day of the form YYYY-MM-DD it fails, so that a run
that was started without a partition key stops there. The last one collects the manifests and, in the chain, hands them
to the next DAG.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from airflow.sdk import DAG, Asset, Param, chain
from airflow.sdk.definitions.callback import AsyncCallback
from airflow.sdk.definitions.deadline import DeadlineAlert, DeadlineReference

from dags.chain import choices
from dags.chain.alerts import tell_failure, tell_late
from dags.chain.deployment import Deployment, read_deployment
from dags.chain.operators import FinishOperator
from dags.chain.switching import add_switching
from dags.chain.tasks import COMMANDS, FEATURES, STARTS_TEACHER, Task, Tasks, Work, all_of
from pipeline.stages import BY_NAME

KEY = "{{ partition_key }}"
"""The day of a run of the chain; `None` where there is none, which is no day."""
BY_HAND_KEY = "{{ params.date }}"
LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)
MOST_PAUSES = 20
"""The pause between two tries doubles up to so many times the first one: ten minutes by default."""


@dataclass(frozen=True, kw_only=True)
class Flow:
    """What a DAG file declares."""

    name: str
    document: str | None
    """Shown in the UI; the file's own docstring."""
    schedule: Any
    stages: tuple[str, ...]
    emits: Asset | None = None
    """The asset its last task updates."""
    deadline_hours: float
    """After being queued, until somebody is told that it is late."""
    opens_day: bool = False
    """The day is opened here, from the run's params; elsewhere it must be open."""
    switches_readers: bool = False
    """Readers are pointed at the publication, if its gate is open."""
    params: dict[str, Param] = field(default_factory=dict)


def build(flow: Flow) -> DAG:
    """The DAG that a file declares."""
    where = read_deployment(os.environ)
    with declared(flow, where, _params(flow, where)) as dag:
        tasks = Tasks(where, BY_HAND_KEY if "date" in flow.params else KEY)
        first = _open(tasks) if flow.opens_day else _check_open(tasks)
        works = _connected(tasks, flow, first)
        last = _finish(tasks, flow)
        switched = add_switching(tasks, works["publication"]) if flow.switches_readers else None
        for leaf in _leaves(dag, last):
            # A rollback ends a run that has failed already.
            if switched is None or leaf is not switched.rollback:
                leaf >> last
        if switched is not None:
            switched.check >> last
    return dag


def build_calls(flow: Flow, calls: Sequence[Callable[[Tasks], Task]]) -> DAG:
    """A DAG of a few calls, one after the other, that are about no day in particular."""
    where = read_deployment(os.environ)
    with declared(flow, where, flow.params) as dag:
        tasks = Tasks(where, "")
        chain(*(call(tasks) for call in calls))
    return dag


def declared(flow: Flow, where: Deployment, params: dict[str, Param]) -> DAG:
    """The DAG without tasks: its schedule, its limits, and what is said when it fails or is late."""
    hours = flow.deadline_hours * where.time_factor
    return DAG(
        dag_id=flow.name,
        schedule=flow.schedule,
        # And no start_date: one in the past would start the last day it missed as soon as the DAG is switched on.
        catchup=False,
        # After a backfill Airflow would also start the newest day it has no run of. Where days only begin when asked,
        # no scheduled one is early enough; a run with a partition key has no time that this could be held against.
        end_date=None if where.is_daily else LONG_AGO,
        # Days are separate datasets, but one machine's memory and the readers' pointer are not: keys go one by one.
        max_active_runs=1,
        doc_md=flow.document,
        description=(flow.document or "").partition("\n")[0].partition(": ")[2],
        tags=["msd", "by hand" if flow.schedule is None else "daily"],
        params=params,
        user_defined_macros={"overrides_of": choices.overrides_of},
        default_args={
            "owner": where.owner,
            "retries": where.retries,
            "retry_delay": timedelta(seconds=where.retry_seconds),
            "retry_exponential_backoff": 2.0,
            "max_retry_delay": timedelta(seconds=MOST_PAUSES * where.retry_seconds),
            "on_failure_callback": tell_failure,
        },
        deadline=DeadlineAlert(
            name=f"{flow.name} is late",
            reference=DeadlineReference.DAGRUN_QUEUED_AT,
            interval=timedelta(hours=hours),
            callback=AsyncCallback(tell_late, kwargs={"dag": flow.name, "hours": hours, "work": where.work}),
        ),
    )


def inner_edges(stages: Sequence[str]) -> list[tuple[str, str]]:
    """Input and reader, for the inputs made in the same DAG, without those that another input waits for anyway."""
    reached: dict[str, set[str]] = {}
    edges = []
    for stage in all_of(stages):
        inputs = [name for name in stage.inputs if name in stages]
        beyond = set().union(*(reached[name] for name in inputs)) if inputs else set()
        edges += [(name, stage.name) for name in inputs if name not in beyond]
        reached[stage.name] = beyond | set(inputs)
    return edges


def _params(flow: Flow, where: Deployment) -> dict[str, Param]:
    params = dict(flow.params)
    if flow.opens_day:
        params |= choices.opening_params(where)
    if flow.switches_readers:
        params |= choices.publishing_params()
    return params


def _connected(tasks: Tasks, flow: Flow, first: Task) -> dict[str, Work]:
    works = tasks.of_stages(flow.stages)
    edges = inner_edges(flow.stages)
    readers = {reader for _, reader in edges}
    pairs = [(works[source].last, works[reader].first) for source, reader in edges]
    pairs += [(work.first, work.last) for work in works.values()]
    pairs += [(first, works[name].first) for name in flow.stages if name not in readers]
    # Tables that one task makes have one place in the graph.
    for before, after in {(one.task_id, other.task_id): (one, other) for one, other in pairs}.values():
        if before is not after:
            before >> after
    if flow.opens_day and "teacher_outputs" in works:
        _serve_teacher(tasks, works)
    return works


def _open(tasks: Tasks) -> Task:
    return tasks.call(
        "open",
        [
            "open",
            "--source={{ params.source }}",
            "--preset={{ params.preset }}",
            "--refresh-days={{ params.refresh_days }}",
            "{{ '--again' if params.again else '' }}",
        ],
        # Every file of the source is read once, to know its content by.
        room=FEATURES,
        repeated={"--set": "{{ overrides_of(params) }}"},
        doc_md="Records what the day means: source, settings and the fingerprint of every dataset.",
    )


def _check_open(tasks: Tasks) -> Task:
    return tasks.call(
        "check_open",
        ["list", "--json"],
        do_xcom_push=False,
        doc_md="Fails where the run has no partition key, or the day was not opened by teacher_generation.",
    )


def _serve_teacher(tasks: Tasks, works: dict[str, Work]) -> None:
    """A server for the slices of the teacher, up for as long as they and their commit take, if the run wants one.

    Where it wants none the two tasks succeed and call nothing: skipped ones would skip the slices as well.
    """
    work = works["teacher_outputs"]
    start = tasks.call(
        "start_teacher",
        ["teacher", "start"],
        room=STARTS_TEACHER,
        when=choices.IS_SERVED,
        doc_md="Starts the teacher's server, or finds it, where the param teacher is served.",
    ).as_setup()  # type: ignore[no-untyped-call]
    stop = tasks.call(
        "stop_teacher",
        ["teacher", "stop"],
        room=STARTS_TEACHER,
        when=choices.IS_SERVED,
        doc_md="Stops the teacher's server, whatever became of the slices.",
    )
    works["prompts"].last >> start >> work.first
    work.last >> stop.as_teardown(setups=start)


def _finish(tasks: Tasks, flow: Flow) -> Task:
    return FinishOperator(
        task_id="finish",
        arguments=["list", "--json"],
        stages=[stage for stage in flow.stages if stage in BY_NAME],
        outlets=[flow.emits] if flow.emits else [],
        doc_md="Collects the counts and places of what was made, and hands them on.",
        **tasks.common(COMMANDS),
    )


def _leaves(dag: DAG, last: Task) -> list[Task]:
    return [task for task in dag.tasks if task is not last and not task.downstream_task_ids]
