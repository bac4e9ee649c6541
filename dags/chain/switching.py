"""From a publication that is complete to readers that have it: gate, approval, activation, check, and the way back."""

from dataclasses import dataclass
from datetime import timedelta

from airflow.providers.standard.operators.hitl import ApprovalOperator
from airflow.sdk import TriggerRule

from dags.chain import choices
from dags.chain.tasks import FEATURES, MODELS_GPU, Task, Tasks, Work

APPROVAL_DAYS = 3


@dataclass(frozen=True, kw_only=True)
class Switching:
    """The tasks that others must know of."""

    check: Task
    rollback: Task


def add_switching(tasks: Tasks, publication: Work) -> Switching:
    """Adds the tasks after the publication of the day, which brings it online but points nobody at it.

    Rollback runs only where the check itself failed. A gate that closed or an approval that was refused leaves readers
    where they are, and there is nothing to take back.
    """
    gate = tasks.call(
        "gate",
        ["gate", *choices.number_options(choices.THRESHOLDS), "--json"],
        room=MODELS_GPU,
        doc_md="Stops here where vector checks, the student's phrase F1 or the canary click model say no.",
    )
    activate = tasks.call(
        "activate",
        ["publish", "--activate=this"],
        room=FEATURES,
        trigger_rule=TriggerRule.NONE_FAILED,
        doc_md="Points readers at the day's generation.",
    )
    check = check_online(tasks)
    rollback = tasks.call(
        "rollback",
        ["publish", "--rollback"],
        room=FEATURES,
        trigger_rule=TriggerRule.ONE_FAILED,
        pre_execute=choices.skip_unless_check_failed,
        doc_md="Points readers at the generation before, where they have this one and its check failed.",
    )
    publication.last >> gate >> _approval(tasks) >> activate >> check >> rollback
    return Switching(check=check, rollback=rollback)


def check_online(tasks: Tasks) -> Task:
    """Compares what readers have with what was made, and its age, coverage and hit rate with their bounds."""
    return tasks.call(
        "check_online",
        ["canary", *choices.number_options(choices.BOUNDS), "--json"],
        room=FEATURES,
        doc_md="Compares online with offline features on a sample; checks age, coverage and cache hit rate.",
    )


def roll_back(tasks: Tasks) -> Task:
    """Points readers at the generation before, whichever they have: a second call would go back to this one."""
    return tasks.call(
        "rollback",
        ["publish", "--rollback"],
        room=FEATURES,
        retries=0,
        doc_md="Points readers at the generation before the one they have; not tried again by itself.",
    )


def _approval(tasks: Tasks) -> Task:
    return ApprovalOperator(
        task_id="approval",
        subject=f"Point readers at the generation of {tasks.date}?",
        body="The verdict of the gate is the result of the task `gate`. Rejected, readers stay where they are and the"
        " chain of this day ends here.",
        fail_on_reject=True,
        retries=0,
        response_timeout=timedelta(days=APPROVAL_DAYS),
        pre_execute=choices.skip_unless_approval,
        doc_md="Waits for a person; skipped unless the param approval or the Variable msd_approval asks for one.",
    )
