"""What holds for every DAG and every task, whatever the deployment."""

import ast
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from dags.chain.names import BY_HAND, CHAIN, DAILY, POOLS, VARIABLES
from pipeline.stages import BY_NAME, REPORTED, with_ancestors

pytestmark = pytest.mark.airflow
Facts = dict[str, Any]
FOLDER = Path(__file__).parents[2] / "dags"
EMITS = dict(zip(CHAIN, ("teacher_outputs", "student", "vectors", "publication", "report"), strict=True))
NO_STAGE = {"open", "check_open", "finish", "start_teacher", "stop_teacher"}
SWITCHING = {"gate", "approval", "activate", "check_online", "rollback"}


def tasks_of(parsed: Facts) -> list[tuple[str, str, Facts]]:
    return [(dag_id, task_id, task) for dag_id, dag in parsed["dags"].items() for task_id, task in dag["tasks"].items()]


def stages_of(dag: Facts) -> set[str]:
    return set(dag["tasks"]) & set(BY_NAME)


def test_every_file_is_one_dag_that_parses_and_serialises(parsed: Facts) -> None:
    assert parsed["errors"] == {}
    assert set(parsed["dags"]) == {*CHAIN, *BY_HAND, *DAILY}
    assert {Path(file).stem for file in parsed["files"]} == set(parsed["dags"])
    assert all(dag["serialized"] for dag in parsed["dags"].values())


def test_parsing_imports_nothing_heavy(parsed: Facts) -> None:
    assert parsed["heavy"] == []


def test_dag_files_are_a_docstring_a_schedule_and_names() -> None:
    for path in FOLDER.glob("*.py"):
        body = ast.parse(path.read_text()).body
        assert isinstance(body[0], ast.Expr), path
        allowed = (ast.Expr, ast.ImportFrom, ast.Assign, ast.AnnAssign)
        assert all(isinstance(statement, allowed) for statement in body), path


def test_the_chain_is_started_by_its_own_assets_under_one_key(parsed: Facts) -> None:
    dags = parsed["dags"]
    assert dags[CHAIN[0]]["timetable"] == "CronPartitionTimetable"
    assert dags[CHAIN[0]]["key_format"] == "%Y-%m-%d"
    for before, after in pairwise(CHAIN):
        assert dags[after]["timetable"] == "PartitionedAssetTimetable"
        assert dags[after]["started_by"] == [EMITS[before]]


def test_only_the_last_task_emits_and_everything_else_comes_before_it(parsed: Facts) -> None:
    for dag_id, dag in parsed["dags"].items():
        emitting = {task_id: task["outlets"] for task_id, task in dag["tasks"].items() if task["outlets"]}
        assert emitting == ({"finish": [EMITS[dag_id]]} if dag_id in EMITS else {})
        if "finish" in dag["tasks"]:
            last = dag["tasks"]["finish"]
            assert last["downstream"] == []
            assert set(dag["tasks"]) - set(last["ancestors"]) - {"finish", "rollback"} == set()


def test_every_reported_stage_is_made_in_exactly_one_dag_of_the_chain(parsed: Facts) -> None:
    made = [stage for dag_id in CHAIN for stage in stages_of(parsed["dags"][dag_id])]
    assert sorted(made) == sorted((*REPORTED, "report"))
    assert stages_of(parsed["dags"]["full_refresh"]) == set(made)


def test_a_stage_waits_for_its_inputs_and_for_nothing_else(parsed: Facts) -> None:
    for dag_id, dag in parsed["dags"].items():
        stages = stages_of(dag)
        for name in stages:
            task = dag["tasks"].get(f"{name}_slices", dag["tasks"][name])
            ancestors = set(task["ancestors"]) & stages
            needed = {stage.name for stage in with_ancestors([name])} - {name}
            assert ancestors == _reachable(name, stages), (dag_id, name)
            assert ancestors <= needed


def _reachable(name: str, stages: set[str]) -> set[str]:
    """Ten-line reference: what can be reached over inputs that are made in the same DAG."""
    found: set[str] = set()
    pending = [name]
    while pending:
        for needed in BY_NAME[pending.pop()].inputs:
            if needed in stages and needed not in found:
                found.add(needed)
                pending.append(needed)
    return found


def test_inputs_from_elsewhere_are_made_earlier_in_the_chain(parsed: Facts) -> None:
    made: set[str] = set()
    for dag_id in CHAIN:
        stages = stages_of(parsed["dags"][dag_id])
        for name in stages:
            assert set(BY_NAME[name].inputs) <= made | stages, (dag_id, name)
        made |= stages


def test_task_names_say_what_they_are(parsed: Facts) -> None:
    for dag_id, task_id, task in tasks_of(parsed):
        stage = task_id.removesuffix("_slices")
        assert stage in BY_NAME or task_id in NO_STAGE | SWITCHING, (dag_id, task_id)
        if stage in BY_NAME:
            assert task["stages"] == [stage]
            assert BY_NAME[stage].summary in task["doc"]


def test_the_day_is_checked_before_anything_is_made(parsed: Facts) -> None:
    for dag_id in (*CHAIN, "full_refresh"):
        tasks = parsed["dags"][dag_id]["tasks"]
        first = {task_id for task_id, task in tasks.items() if not task["upstream"]}
        assert first == {"open" if dag_id in (CHAIN[0], "full_refresh") else "check_open"}


def test_every_task_has_an_owner_a_document_a_limit_and_an_alert(parsed: Facts) -> None:
    for dag_id, task_id, task in tasks_of(parsed):
        assert task["owner"] == "ctr-platform", (dag_id, task_id)
        assert task["doc"], (dag_id, task_id)
        assert task["timeout"] or task["response_timeout"], (dag_id, task_id)
        assert task["tells_failure"], (dag_id, task_id)
        assert task["pool"] in {*POOLS, "default_pool"}, (dag_id, task_id)


def test_every_task_is_tried_again_with_growing_pauses_but_what_must_not_be(parsed: Facts) -> None:
    for dag_id, task_id, task in tasks_of(parsed):
        if task_id == "approval" or (dag_id, task_id) == ("rollback", "rollback"):
            assert task["retries"] == 0
        else:
            assert task["retries"] == 3
        assert task["backoff"] > 1
        assert 0 < task["retry_seconds"] <= task["max_pause"]


def test_every_dag_has_a_document_tags_a_deadline_and_one_run_at_a_time(parsed: Facts) -> None:
    for dag_id, dag in parsed["dags"].items():
        assert dag["doc"].startswith(f"{dag_id}: ")
        assert dag["description"]
        assert "msd" in dag["tags"]
        assert dag["deadlines"] == 1
        assert dag["max_active_runs"] == 1
        assert dag["catchup"] is False


def test_models_share_the_gpu_and_tables_share_spark(parsed: Facts) -> None:
    pools = {task_id: task["pool"] for task_id, task in parsed["dags"]["full_refresh"]["tasks"].items()}
    on_gpu = {name for name, pool in pools.items() if pool == "gpu"}
    assert {"teacher_outputs_slices", "student", "user_vectors_slices", "tuned_student", "ctr_model", "gate"} <= on_gpu
    assert {name for name, pool in pools.items() if pool == "spark"} == {
        stage.name for stage in BY_NAME.values() if stage.kind == "table" and stage.name in pools
    }
    assert pools["publication"] == pools["examples"] == pools["finish"] == "default_pool"


def test_results_handed_on_are_answers_of_commands(parsed: Facts) -> None:
    """Nothing but MsdOperator returns a value, and it returns the JSON object a command ended with, or nothing."""
    kinds = {task["type"] for _, _, task in tasks_of(parsed)}
    assert kinds == {"MsdOperator", "FinishOperator", "SparkStageOperator", "ApprovalOperator", "MappedOperator"}
    for _, task_id, task in tasks_of(parsed):
        if task_id == "check_open":
            assert not task["pushes"]


def test_the_servers_tasks_enclose_the_slices_and_poison_nobody(parsed: Facts) -> None:
    tasks = parsed["dags"][CHAIN[0]]["tasks"]
    assert tasks["start_teacher"]["setup"]
    assert tasks["stop_teacher"]["teardown"]
    assert "start_teacher" in tasks["teacher_outputs_slices"]["upstream"]
    assert {"start_teacher", "teacher_outputs"} == set(tasks["stop_teacher"]["upstream"])
    # The two always run and call nothing where no server is wanted: a skipped one would skip the slices.
    assert tasks["start_teacher"]["calls"] == tasks["stop_teacher"]["calls"] == [[]]
    assert tasks["teacher_outputs_slices"]["trigger_rule"] == "TriggerRule.ALL_SUCCESS"


def test_readers_move_only_behind_the_gate_and_back_only_behind_a_failed_check(parsed: Facts) -> None:
    tasks = parsed["dags"]["publication"]["tasks"]
    assert {"publication", "gate", "approval"} <= set(tasks["activate"]["ancestors"])
    # A skipped approval lets through, a refused one or a closed gate does not.
    assert tasks["activate"]["trigger_rule"] == "TriggerRule.NONE_FAILED"
    assert tasks["rollback"]["upstream"] == ["check_online"]
    assert tasks["rollback"]["trigger_rule"] == "TriggerRule.ONE_FAILED"
    assert "rollback" not in tasks["finish"]["ancestors"]
    assert "check_online" in tasks["finish"]["upstream"]


def test_choices_are_validated_forms(parsed: Facts) -> None:
    head = parsed["dags"][CHAIN[0]]["params"]
    assert set(head) == {
        "source", "preset", "overrides", "sample_items", "sample_users", "arms", "teacher", "refresh_days", "again"
    }  # fmt: skip
    assert all("type" in schema for dag in parsed["dags"].values() for schema in dag["params"].values())
    assert parsed["dags"]["full_refresh"]["params"]["date"]["format"] == "date"
    thresholds = {name.removeprefix("msd_") for name in VARIABLES}
    assert thresholds == set(parsed["dags"]["publication"]["params"])
    for dag_id in CHAIN[1:]:
        assert not set(parsed["dags"][dag_id]["params"]) & set(head), "the day's record says it"


@pytest.fixture(scope="module")
def elsewhere(parse_dags: Callable[..., Facts]) -> Facts:
    """The folder as it is parsed in a cluster."""
    return parse_dags(
        {
            "MSD_TEACHER_SLICES": "3",
            "MSD_EMBEDDING_SLICES": "2",
            "MSD_EMBED_ON": "spark",
            "MSD_TABLES_TOGETHER": "yes",
            "MSD_POD_TEMPLATES": "/pods",
            "MSD_COMMAND": "env -u X '/opt/m s d/msd'",
            "MSD_RETRIES": "7",
        }
    )


def test_facts_of_a_deployment_come_from_the_environment(elsewhere: Facts) -> None:
    assert elsewhere["errors"] == {}
    head, embedding, last = (elsewhere["dags"][name]["tasks"] for name in (CHAIN[0], "embedding", CHAIN[-1]))
    assert len(head["teacher_outputs_slices"]["calls"]) == 3
    assert head["teacher_outputs_slices"]["calls"][1][:4] == ["env", "-u", "X", "/opt/m s d/msd"]
    assert "item_vectors_slices" not in embedding
    assert embedding["item_vectors"]["type"] == "SparkStageOperator"
    assert embedding["item_text_vectors"]["type"] == "MsdOperator"
    pods = {task_id: task["pod"] for task_id, task in (head | embedding | last).items()}
    assert pods["tables"] == pods["audit"] == pods["item_vectors"] == "/pods/spark.yaml"
    assert pods["teacher_outputs_slices"] == "/pods/models_gpu.yaml"
    assert pods["teacher_quality"] == "/pods/models_cpu.yaml"
    assert pods["open"] == "/pods/features.yaml"
    assert head["tables"]["retries"] == 7


def test_one_submission_makes_the_tables_that_need_nothing_else(elsewhere: Facts) -> None:
    for dag_id in (CHAIN[0], "full_refresh"):
        tasks = elsewhere["dags"][dag_id]["tasks"]
        tables = tasks["tables"]
        assert tables["upstream"] == ["open"]
        assert tables["stages"] == [stage.name for stage in with_ancestors(tables["stages"])], "inputs come first"
        alone = {stage for stage in BY_NAME if BY_NAME[stage].kind == "table"} - {"audit"}
        assert set(tables["stages"]) == alone
        assert not set(tasks) & alone
        [(application, *arguments, _)] = tables["calls"]
        assert Path(application).name == "run.py"
        assert arguments[: len(alone)] == tables["stages"]
        assert {"tables", "open"} <= set(tasks["teacher_outputs_slices"]["ancestors"])
    refresh, last = (elsewhere["dags"][name]["tasks"] for name in ("full_refresh", CHAIN[-1]))
    assert {"tables", "examples"} <= set(refresh["audit"]["ancestors"])
    assert last["audit"]["stages"] == ["audit"]


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("MSD_TEACHER_SLICES", "0"),
        ("MSD_EMBEDDING_SLICES", "two"),
        ("MSD_EMBED_ON", "moon"),
        ("MSD_RETRY_SECONDS", "nan"),
        ("MSD_COMMAND", "msd 'unclosed"),
    ],
)
def test_a_wrong_variable_is_named(variable: str, value: str) -> None:
    from dags.chain.deployment import read_deployment
    from pipeline.errors import ConfigError

    with pytest.raises(ConfigError, match=f"{variable}={value}"):
        read_deployment({variable: value})


def test_the_parser_passes_over_the_packages_beside_the_files() -> None:
    ignored = (FOLDER / ".airflowignore").read_text().splitlines()
    packages = {path.parent.name for path in FOLDER.glob("*/__init__.py")}
    assert {f"{name}/" for name in packages} <= set(ignored)
    assert packages == {"chain", "laptop"}
