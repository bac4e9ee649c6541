"""What a person chooses for a run, as validated fields of Airflow's trigger form, and how it reaches the command.

A day's source and settings are chosen once, by the DAG that opens it: the later ones read them from its record. A run
that the schedule or an asset starts has the defaults, those of thresholds from Airflow's Variables.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from airflow.sdk import Context, Param, Variable
from airflow.sdk.exceptions import AirflowSkipException

from dags.chain.deployment import Deployment
from dags.chain.names import VARIABLES
from pipeline.config import CtrModel
from pipeline.settings import presets
from pipeline.source import built_in_sources

SERVED = "served"
IS_SERVED = f"{{{{ params.teacher == '{SERVED}' }}}}"
THRESHOLDS = ("min_f1", "max_auc_loss")
BOUNDS = ("max_age_hours", "min_coverage", "min_hit_rate", "rows")


def opening_params(where: Deployment) -> dict[str, Param]:
    """What a day is opened with."""
    return {
        "source": _text(where.source, "A built-in source or the absolute path of a source TOML", built_in_sources()),
        "preset": _text(where.preset, "A built-in preset or the absolute path of a TOML file", presets()),
        "overrides": Param(
            [],
            type="array",
            items={"type": "string", "pattern": r"^[a-z_]+\.[a-z_]+=.+$"},
            description="Settings that win over the preset, each stage.key=value",
        ),
        "sample_items": _count("Items the teacher reads; empty: as the preset says"),
        "sample_users": _count("Users the teacher reads; empty: as the preset says"),
        "arms": Param(
            [],
            type="array",
            items={"type": "string", "pattern": r"^[a-z0-9_]+$"},
            examples=list(CtrModel().arms),
            description="Arms of the comparison; empty: as the preset says",
        ),
        "teacher": Param(
            "in_process",
            type="string",
            enum=["in_process", SERVED],
            description="in_process: each slice loads the model the preset names, or asks the server it names;"
            " served: a server is started beside the slices, for workers of one machine",
        ),
        "refresh_days": Param(
            where.refresh_days, type="integer", minimum=1, description="Days a teacher and student are kept for"
        ),
        "again": Param(False, type="boolean", description="Open the day anew, although it was opened otherwise"),
    }


def publishing_params() -> dict[str, Param]:
    """What a generation must be worth before readers are pointed at it, and whether a person is asked."""
    approval = Param(
        None,
        type=["null", "boolean"],
        description="Wait for a person's approval before activation; empty: the Variable msd_approval",
    )
    return {**_numbers(THRESHOLDS), "approval": approval, **_numbers(BOUNDS)}


def canary_params() -> dict[str, Param]:
    """Within which bounds the published features must be."""
    return _numbers(BOUNDS)


def date_param() -> Param:
    """The day of a DAG that is started by hand and has no partition key."""
    return Param(type="string", format="date", description="The day whose datasets are made, YYYY-MM-DD")


def number_options(names: Sequence[str]) -> list[str]:
    """Templates of `--min-f1=0.4` and its like; nothing where neither the run nor a Variable says a value."""
    options = []
    for name in names:
        chosen = f"(params.{name} if params.{name} is not none else var.value.get('msd_{name}', ''))"
        flag = "--" + name.replace("_", "-") + "="
        options.append(f"{{{{ '{flag}' ~ {chosen} if {chosen} != '' else '' }}}}")
    return options


def overrides_of(params: Mapping[str, Any]) -> str:
    """The settings that the form's fields stand for, as a JSON list; a macro of the DAGs that open a day."""
    chosen = list(params["overrides"])
    for stage_key, field in (("prompts.item_rows", "sample_items"), ("prompts.user_rows", "sample_users")):
        if params[field] is not None:
            chosen.append(f"{stage_key}={params[field]}")
    if params["arms"]:
        chosen.append(f"ctr_model.arms={json.dumps(list(params['arms']))}")
    if params["teacher"] == SERVED:
        chosen.append('teacher_outputs.generator="openai"')
    return json.dumps(chosen)


def skip_unless_approval(context: Context) -> None:
    """Leaves the approval out where nobody asked for one.

    Raises:
        AirflowSkipException: nobody did.
    """
    wanted = context["params"]["approval"]
    if wanted is None:
        wanted = str(Variable.get("msd_approval", default="false")).lower() == "true"
    if not wanted:
        raise AirflowSkipException("no approval is asked for; the param approval or the Variable msd_approval asks")


def skip_unless_check_failed(context: Context) -> None:
    """Leaves the rollback out where the check never ran: then readers were not pointed at anything new.

    Raises:
        AirflowSkipException: the check did not run.
    """
    instance: Any = context["ti"]
    states = instance.get_task_states(dag_id=instance.dag_id, task_ids=["check_online"], run_ids=[instance.run_id])
    state = states.get(instance.run_id, {}).get("check_online")
    if state != "failed":
        raise AirflowSkipException(f"check_online is {state}, not failed: readers stay where they are")


def _text(default: str, description: str, examples: Any) -> Param:
    return Param(default, type="string", minLength=1, examples=list(examples), description=description)


def _count(description: str) -> Param:
    return Param(None, type=["null", "integer"], minimum=1, description=description)


def _numbers(names: Sequence[str]) -> dict[str, Param]:
    described = {name: f"{VARIABLES['msd_' + name]}; empty: the Variable msd_{name}" for name in names}
    return {
        name: Param(None, type=["null", "integer" if name == "rows" else "number"], minimum=0, description=said)
        for name, said in described.items()
    }
