"""The chain through a real scheduler: a backfill of two days with a killed slice, and what may be done afterwards.

One Airflow for all of it, and the tests go in the order of the file: each finds what the one before it left.
"""

import json
import re
import shlex
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from subprocess import CompletedProcess

import pytest
from killed_runs import run_with_kills
from scheduled_world import (
    FIRST,
    LAST,
    OVERRIDES,
    PARAMS,
    VARIABLES,
    WAIT_SECONDS,
    SliceEnds,
    active_generation,
    answer,
    ended,
    generation,
    manifests,
    msd,
    now,
    start,
    until_waiting,
)

from dags.chain.names import CHAIN
from dags.laptop.bring_up import bring_up, take_down, wait_for_dags
from dags.laptop.chain_run import ChainRun, backfill, follow, moment
from dags.laptop.home import Home
from dags.laptop.rest import Airflow
from dags.laptop.services import members
from pipeline.call import plan_of
from pipeline.stages import Kind, with_ancestors

pytestmark = [
    pytest.mark.airflow,
    pytest.mark.spark,
    pytest.mark.redis,
    pytest.mark.feast,
    pytest.mark.slow,
    # The first test waits for both days: a hundred processes, one after the other.
    pytest.mark.timeout(1800),
]
DAGS = Path(__file__).parents[2] / "dags"


@dataclass(frozen=True)
class ByHand:
    """A work folder, and the command that fills it."""

    work: Path
    ended: Future[CompletedProcess[str]]


@pytest.fixture(scope="module")
def laptop(tmp_path_factory: pytest.TempPathFactory, preloaded_msd: list[str]) -> Iterator[Home]:
    work = tmp_path_factory.mktemp("work")
    lineage = {"type": "file", "log_file_path": str(work / "lineage" / "events.json"), "append": True}
    (work / "lineage").mkdir()
    with pytest.MonkeyPatch.context() as environment:
        for name, value in VARIABLES.items():
            environment.setenv(name, value)
        environment.setenv("MSD_COMMAND", shlex.join(preloaded_msd))
        environment.setenv("AIRFLOW__OPENLINEAGE__TRANSPORT", json.dumps(lineage))
        environment.setenv("AIRFLOW__OPENLINEAGE__NAMESPACE", "msd")
        home = bring_up(work, DAGS)
        try:
            wait_for_dags(home, (*CHAIN, "canary", "rollback"))
            yield home
        finally:
            take_down(work)
    assert members(home) == []


@pytest.fixture(scope="module")
def airflow(laptop: Home) -> Airflow:
    return Airflow(laptop.url)


@pytest.fixture(scope="module")
def by_hand(tmp_path_factory: pytest.TempPathFactory, preloaded_msd: list[str]) -> Iterator[ByHand]:
    """The first day by one command in another work folder, killed in stage after stage, beside the scheduler."""
    work = tmp_path_factory.mktemp("by-hand")
    command = [*preloaded_msd, "run", "report", f"--date={FIRST}", "--json", f"--work={work}"]
    command += ["--source=tiny-world", "--preset=tiny-world", *(f"--set={override}" for override in OVERRIDES)]
    with ThreadPoolExecutor(1) as beside:
        yield ByHand(work, beside.submit(run_with_kills, command))


@pytest.fixture(scope="module")
def two_days(laptop: Home, airflow: Airflow, by_hand: ByHand) -> list[ChainRun]:
    """The chain of both days, green, although a slice of the first was killed."""
    keys, asked = backfill(airflow, FIRST, LAST, PARAMS)
    words = ("user_vectors", "--slice=2/2", f"--date={FIRST}", f"--work={laptop.work}")
    with SliceEnds(words) as slice_ends:
        runs = follow(airflow, keys, asked, show=slice_ends.look)
    troubles = {
        f"{hop.dag} {task['task_id']}": airflow.log(hop.dag, hop.run["dag_run_id"], task)[-15:]
        for run in runs
        for hop in run.hops
        for task in hop.failed_tasks
        if hop.run
    }
    assert all(run.is_green for run in runs), troubles or [run.trouble for run in runs]
    assert slice_ends.killed
    return runs


def test_a_backfill_makes_the_report_of_every_day(laptop, two_days):
    assert [run.key for run in two_days] == [FIRST, LAST]
    for run in two_days:
        assert (laptop.work / "report" / run.key / "report.html").is_file()
        assert {hop.run["partition_key"] for hop in run.hops} == {run.key}
    first, last = (
        answer(msd("run", "report", "--only", "--json", f"--date={day}", work=laptop.work)) for day in (FIRST, LAST)
    )
    assert first["stages"]["report"]["digest"] != last["stages"]["report"]["digest"]


def test_the_datasets_are_those_of_one_command_by_hand_killed_in_stage_after_stage(laptop, two_days, by_hand):
    ended = by_hand.ended.result(timeout=WAIT_SECONDS)
    assert ended.returncode == 0, ended.stderr[-2000:]
    scheduled, typed = (plan_of(work, None, None, None, FIRST) for work in (laptop.work, by_hand.work))
    for stage in with_ancestors(["report"]):
        one, other = scheduled.dataset(stage.name), typed.dataset(stage.name)
        assert one.manifest["rows_ok"] == other.manifest["rows_ok"], stage.name
        assert one.manifest["files"].keys() == other.manifest["files"].keys(), stage.name
        if stage.kind is not Kind.ARTIFACT:
            # To the last bit, vectors too.
            assert one.table().equals(other.table()), stage.name
    digest = scheduled.dataset("report").details["digest"]
    assert digest == typed.dataset("report").details["digest"]
    assert digest == answer(ended)["stages"]["report"]["digest"]


def test_only_the_killed_slice_was_tried_again(two_days):
    embedding = two_days[0].hops[CHAIN.index("embedding")]
    tries = {(task["task_id"], task["map_index"]): task["try_number"] for task in embedding.tasks}
    assert tries.pop(("user_vectors_slices", 1)) == 2
    assert set(tries.values()) == {1}, tries


def test_each_day_is_handed_on_by_its_assets(two_days):
    for run in two_days:
        for before, hop in zip(run.hops, run.hops[1:], strict=False):
            assert moment(hop.run["queued_at"]) >= moment(before.run["start_date"])
            assert hop.run["run_type"] == "asset_triggered"


def test_lineage_names_the_datasets(laptop, two_days):
    events = [json.loads(line) for line in (laptop.work / "lineage" / "events.json").read_text().splitlines()]
    outputs = {output["name"] for event in events for output in event.get("outputs", ())}
    assert {"student", "report"} <= {Path(name).name for name in outputs}


def test_clearing_a_finished_run_makes_nothing_anew(laptop, airflow, two_days):
    before = manifests(laptop.work, FIRST)
    run_id = two_days[0].hops[-1].run["dag_run_id"]
    airflow.post(f"/dags/{CHAIN[-1]}/dagRuns/{run_id}/clear", {"dry_run": False, "only_failed": False})
    tasks = ended(airflow, CHAIN[-1], run_id)
    assert tasks[""]["state"] == "success"
    assert tasks["report"]["try_number"] == 2
    assert manifests(laptop.work, FIRST) == before


def test_a_closed_gate_leaves_readers_where_they_are(laptop, airflow, two_days):
    active, asked = active_generation(laptop.work), now()
    tasks = ended(airflow, "publication", start(airflow, "publication", FIRST, {"min_f1": 1.0}))
    assert (tasks[""]["state"], tasks["gate"]["state"], tasks["activate"]["state"]) == (
        "failed",
        "failed",
        "upstream_failed",
    )
    assert tasks["gate"]["try_number"] == 1, "a verdict is no failure to try again"
    assert active_generation(laptop.work) == active
    assert all(moment(run["queued_at"]) < asked for run in airflow.runs("ctr_training"))


def test_a_person_who_says_no_leaves_readers_where_they_are(laptop, airflow, two_days):
    active, asked = active_generation(laptop.work), now()
    run_id = start(airflow, "publication", FIRST, {"approval": True})
    until_waiting(airflow, "publication", run_id, "approval")
    path = f"/dags/publication/dagRuns/{run_id}/taskInstances/approval/-1/hitlDetails"
    airflow.patch(path, {"chosen_options": ["Reject"], "params_input": {}})
    tasks = ended(airflow, "publication", run_id)
    assert (tasks[""]["state"], tasks["gate"]["state"], tasks["approval"]["state"]) == ("failed", "success", "failed")
    assert tasks["activate"]["state"] == "upstream_failed"
    assert tasks["rollback"]["state"] != "success"
    assert active_generation(laptop.work) == active
    assert all(moment(run["queued_at"]) < asked for run in airflow.runs("ctr_training"))


def test_the_canary_finds_readers_well_and_names_a_bound_that_broke(laptop, airflow, two_days):
    well = ended(airflow, "canary", start(airflow, "canary", None, {}))
    assert well[""]["state"] == "success"
    ill = ended(airflow, "canary", start(airflow, "canary", None, {"max_age_hours": 0}))
    assert (ill[""]["state"], ill["check_online"]["try_number"]) == ("failed", 1)
    run_id = ill[""]["dag_run_id"]
    [said, *_] = [line for line in airflow.log("canary", run_id, ill["check_online"]) if "is out of bounds" in line]
    assert re.search(r"age: the generation's age in hours is \S+, wanted 0 or less;.* publish a newer day: msd", said)


def test_rollback_points_readers_at_the_generation_before(laptop, airflow, two_days):
    assert active_generation(laptop.work) == generation(laptop.work, LAST)
    tasks = ended(airflow, "rollback", start(airflow, "rollback", None, {}))
    assert tasks[""]["state"] == "success"
    assert active_generation(laptop.work) == generation(laptop.work, FIRST)


def test_a_run_without_a_key_fails_at_once_and_starts_nothing(airflow, two_days):
    asked = now()
    tasks = ended(airflow, CHAIN[0], start(airflow, CHAIN[0], None, PARAMS))
    assert tasks[""]["state"] == "failed"
    assert (tasks["open"]["state"], tasks["open"]["try_number"]) == ("failed", 1)
    assert all(moment(run["queued_at"]) < asked for run in airflow.runs(CHAIN[1]))
