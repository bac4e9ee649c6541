"""The leak audit: a clean world has none; whatever is moved past the cut is named, and nobody else is."""

import shutil
from dataclasses import replace
from datetime import timedelta

import pyarrow.parquet as pq
import pytest
from audit_world import OVERRIDES, events_of, make_world, plan_in, rendered, tamper, write_source

from pipeline.audit import check, examine, lines
from pipeline.cli import main
from pipeline.errors import StageError
from pipeline.runner import run_stage
from pipeline.stages import BY_NAME
from pipeline.texts import text_id

pytestmark = [pytest.mark.spark, pytest.mark.slow]
VICTIM = "u4"


@pytest.fixture(scope="module")
def clean(tmp_path_factory, spark):
    folder = tmp_path_factory.mktemp("audited")
    make_world(folder / "work", write_source(folder))
    return folder


@pytest.fixture
def plan(clean, tmp_path):
    """A copy of the clean world, to be spoiled."""
    shutil.copytree(clean / "work", tmp_path / "work")
    return plan_in(tmp_path / "work", clean / "source.toml")


def rows_of(plan, name="examples"):
    return plan.dataset(name).table().to_pylist()


def named(plan, kind):
    findings = examine(plan)
    assert set(findings.counts) == {kind}, findings.counts
    rows = findings.rows.to_pylist()
    assert findings.counts[kind] == len(rows)
    return rows


def ids(rows):
    return sorted(row["event_id"] for row in rows)


def cut_of(plan):
    return max(row["event_at"] for row in rows_of(plan, "interactions") if row["split"] == "train")


def test_nothing_leaks_in_a_clean_world(plan):
    findings = examine(plan)
    assert findings.counts == {}
    assert findings.rows.num_rows == 0
    assert findings.examined == len(rows_of(plan)) > 200
    assert len({row["history_row"] for row in rows_of(plan)}) > 100
    assert any(row["user_vector_row"] is not None for row in rows_of(plan))
    assert "nothing behind them" in next(iter(lines(findings)))
    check(plan, findings)


def test_the_stage_is_empty_and_that_is_well(plan):

    run_stage(plan, BY_NAME["audit"])
    assert plan.dataset("audit").manifest["rows_ok"] == 0
    assert plan.dataset("audit").details == {"leaks": {}, "examined": len(rows_of(plan))}


def test_a_history_with_events_past_its_examples_names_their_rows(plan):
    late = events_of(plan, VICTIM)[-1]
    cut = cut_of(plan)

    def change(row):
        if row["user_id"] != VICTIM or row["snapshot_at"] > cut:
            return row
        return {
            **row,
            "item_ids": [*row["item_ids"], late["item_id"]],
            "event_times": [*row["event_times"], late["event_at"]],
            "labels": [*row["labels"], 1],
        }

    tamper(plan.dataset("histories"), change)
    rows = named(plan, "history")
    wanted = [
        row
        for row in rows_of(plan)
        if row["user_id"] == VICTIM and row["history_row"] is not None and row["event_at"] <= cut
    ]
    assert ids(rows) == ids(wanted) != []
    assert {row["known_at"] for row in rows} == {late["event_at"]}


def test_a_history_that_dates_its_events_back_is_found_out(plan):
    """The times are before the example and the snapshot is right, but no such event happened."""
    snapshots = [row["snapshot_at"] for row in rows_of(plan, "histories") if row["user_id"] == VICTIM]
    chosen = snapshots[len(snapshots) // 2]
    late = events_of(plan, VICTIM)[-1]

    def change(row):
        is_chosen = row["user_id"] == VICTIM and row["snapshot_at"] == chosen
        return {**row, "item_ids": [*row["item_ids"][:-1], late["item_id"] + "x"]} if is_chosen else row

    tamper(plan.dataset("histories"), change)
    rows = named(plan, "history")
    assert ids(rows) == ids(r for r in rows_of(plan) if r["user_id"] == VICTIM and r["event_at"] == chosen)
    assert "never happened" in rows[0]["evidence"]


def test_a_vector_of_a_future_history_is_found_though_its_snapshot_lies(plan):
    future = text_id(rendered(plan, VICTIM, events_of(plan, VICTIM), 5))
    table = rows_of(plan, "user_vectors")
    last = max(row["snapshot_at"] for row in table if row["user_id"] == VICTIM)

    def change(row):
        is_chosen = row["user_id"] == VICTIM and row["snapshot_at"] == last
        return {**row, "content_hash": future} if is_chosen else row

    tamper(plan.dataset("user_vectors"), change)
    rows = named(plan, "user_vector")
    wanted = [row for row in rows_of(plan) if row["user_id"] == VICTIM and row["event_at"] >= last]
    assert ids(rows) == ids(wanted) != []


def test_a_vector_of_a_later_snapshot_is_found(plan):
    later = timedelta(days=3)

    def change(row):
        return {**row, "snapshot_at": row["snapshot_at"] + later} if row["user_id"] == VICTIM else row

    tamper(plan.dataset("user_vectors"), change)
    rows = named(plan, "user_vector")
    assert ids(rows) == ids(r for r in rows_of(plan) if r["user_id"] == VICTIM and r["user_vector_row"] is not None)


def test_a_prompt_that_shows_the_future_names_the_rows_up_to_it(plan):
    users = [row for row in rows_of(plan, "prompts") if row["level"] == "user"]
    victim = users[0]["entity_id"]
    events = events_of(plan, victim)
    late = next(row for row in events if row["split"] == "test")
    shown = rendered(plan, victim, [row for row in events if row["event_at"] <= late["event_at"]], 4)

    def change(row):
        is_chosen = row["entity_id"] == victim and row["level"] == "user"
        return {**row, "text": shown, "teacher_text": shown} if is_chosen else row

    tamper(plan.dataset("prompts"), change)
    rows = named(plan, "prompt")
    titles = {row["item_id"]: row["title"] for row in rows_of(plan, "items")}
    told = {line.removeprefix("- ") for line in shown.splitlines()}
    # A title of the prompt may come again later; the audit cannot tell and says the later one.
    known_at = max(
        row["event_at"]
        for row in rows_of(plan, "interactions")
        if row["user_id"] == victim and titles[row["item_id"]] in told
    )
    assert known_at >= late["event_at"]
    wanted = [row for row in rows_of(plan) if row["user_id"] == victim and row["event_at"] <= known_at]
    assert ids(rows) == ids(wanted) != []


def test_a_prompt_of_a_snapshot_past_the_training_window_is_named(plan):
    users = [row for row in rows_of(plan, "prompts") if row["level"] == "user"]
    victim = users[-1]["entity_id"]
    events = events_of(plan, victim)
    at = next(row["event_at"] for row in events if row["split"] == "test")
    before = [row for row in events if row["event_at"] < at]
    shown = rendered(plan, victim, before, 4)

    def change(row):
        is_chosen = row["entity_id"] == victim and row["level"] == "user"
        return {**row, "text": shown, "teacher_text": shown, "snapshot_at": at} if is_chosen else row

    tamper(plan.dataset("prompts"), change)
    rows = named(plan, "prompt")
    wanted = [r for r in rows_of(plan) if r["user_id"] == victim and r["event_at"] <= before[-1]["event_at"]]
    assert ids(rows) == ids(wanted) != []


def test_counts_beyond_the_training_window_name_the_item(plan):
    item = rows_of(plan)[3]["item_id"]

    def change(row):
        return {**row, "exposures": row["exposures"] + 1} if row["item_id"] == item else row

    tamper(plan.dataset("item_stats"), change)
    rows = named(plan, "frequency")
    assert ids(rows) == ids(row for row in rows_of(plan) if row["item_id"] == item)


def test_an_example_moved_to_another_side_or_time_is_named(plan):
    chosen = [row["event_id"] for row in rows_of(plan) if row["split"] == "test"][:2]
    later = timedelta(days=1)

    def change(row):
        if row["event_id"] == chosen[0]:
            return {**row, "split": "train"}
        return {**row, "event_at": row["event_at"] + later} if row["event_id"] == chosen[1] else row

    tamper(plan.dataset("examples"), change)
    assert ids(named(plan, "split")) == sorted(chosen)


def test_rows_of_others_and_rows_that_are_not_there_are_named(plan):
    rows = rows_of(plan)
    one, two = (next(row for row in rows if row["user_id"] == user and row["history_row"]) for user in ("u1", "u2"))
    other_item = next(row["item_vector_row"] for row in rows if row["item_id"] != one["item_id"])

    def change(row):
        if row["event_id"] == one["event_id"]:
            return {**row, "item_vector_row": other_item, "history_row": two["history_row"], "user_vector_row": 10_000}
        return row

    tamper(plan.dataset("examples"), change)
    findings = examine(plan)
    assert findings.counts == {"history": 1, "item_vector": 1, "user_vector": 1}
    assert set(findings.rows.column("event_id").to_pylist()) == {one["event_id"]}


def test_the_command_names_the_rows_and_ends_with_one(plan, clean, capsys):
    arguments = ["audit", "--source", str(clean / "source.toml"), "--preset", "tiny", "--work"]
    arguments.append(str(plan.workspace.root))

    for override in OVERRIDES:
        arguments += ["--set", override]
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 0
    tamper(plan.dataset("item_stats"), lambda row: {**row, "clicks": row["clicks"] + 1})
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    said = capsys.readouterr()
    assert ended.value.code == 1
    assert "frequency" in said.out
    assert "and " in said.out
    told = " ".join(said.err.split())
    assert "item_stats, changed since it was made" in told
    assert "make them anew" in told
    written = pq.read_table(plan.workspace.root / "audit" / "audit.parquet")
    assert written.num_rows == len(rows_of(plan))


def test_more_leaks_than_are_named_are_counted(plan):
    tamper(plan.dataset("item_stats"), lambda row: {**row, "clicks": row["clicks"] + 1})
    plan.settings["audit"] = replace(plan.settings["audit"], max_named=7)
    findings = examine(plan)
    assert findings.counts == {"frequency": len(rows_of(plan))}
    assert findings.rows.num_rows == 7


def test_what_is_not_made_yet_is_said_with_the_command(clean, tmp_path):
    plan = plan_in(tmp_path / "empty", clean / "source.toml")
    with pytest.raises(StageError, match="run: msd run examples interactions"):
        examine(plan)
