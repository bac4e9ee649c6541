"""The leak audit: a clean world has none; whatever is moved past the cut is named, and nobody else is.

Spark plans for seconds whatever the size, so that several things are spoiled at once and each is looked for by itself.
"""

import shutil
from datetime import timedelta

import pyarrow.parquet as pq
import pytest
from audit_world import OVERRIDES, events_of, make_world, plan_in, rendered, tamper, write_source

from pipeline.audit import examine
from pipeline.cli import main
from pipeline.errors import StageError
from pipeline.runner import run_stage
from pipeline.stages import BY_NAME
from pipeline.texts import text_id

pytestmark = [pytest.mark.spark, pytest.mark.slow]
VICTIM, OTHER = "u4", "u7"
LATER = timedelta(days=3)


@pytest.fixture(scope="module")
def clean(tmp_path_factory, spark):
    folder = tmp_path_factory.mktemp("audited")
    make_world(folder / "work", write_source(folder))
    return folder


def copied(clean, folder):
    shutil.copytree(clean / "work", folder / "work")
    return plan_in(folder / "work", clean / "source.toml")


def rows_of(plan, name="examples"):
    return plan.dataset(name).table().to_pylist()


def ids(rows):
    return {row["event_id"] for row in rows}


def drawn_users(plan):
    return [row["entity_id"] for row in rows_of(plan, "prompts") if row["level"] == "user"]


def of_user(plan, user):
    return [row for row in rows_of(plan) if row["user_id"] == user]


def put(plan, name, matches, **changes):
    """Changes the rows of a dataset that match; a value may be a function of the row."""
    tamper(
        plan.dataset(name),
        lambda row: (
            row | {key: new(row) if callable(new) else new for key, new in changes.items()} if matches(row) else row
        ),
    )


def spoil_history(plan):
    """The victim's latest event is in the histories of the training window."""
    late = events_of(plan, VICTIM)[-1]
    cut = max(row["event_at"] for row in rows_of(plan, "interactions") if row["split"] == "train")
    put(
        plan,
        "histories",
        lambda row: row["user_id"] == VICTIM and row["snapshot_at"] <= cut,
        item_ids=lambda row: [*row["item_ids"], late["item_id"]],
        event_times=lambda row: [*row["event_times"], late["event_at"]],
        labels=lambda row: [*row["labels"], 1],
    )
    return ids(r for r in of_user(plan, VICTIM) if r["history_row"] is not None and r["event_at"] <= cut)


def spoil_user_vector(plan):
    """The victim's last vector was read from all that the victim ever did; its snapshot says otherwise."""
    last = max(row["snapshot_at"] for row in rows_of(plan, "user_vectors") if row["user_id"] == VICTIM)
    future = text_id(rendered(plan, VICTIM, events_of(plan, VICTIM), 5))
    put(
        plan,
        "user_vectors",
        lambda row: row["user_id"] == VICTIM and row["snapshot_at"] == last,
        content_hash=future,
    )
    return ids(row for row in of_user(plan, VICTIM) if row["event_at"] >= last)


def spoil_prompt(plan):
    """A prompt shows what the user did up to the test window."""
    user = drawn_users(plan)[0]
    events = events_of(plan, user)
    late = next(row for row in events if row["split"] == "test")
    shown = rendered(plan, user, [row for row in events if row["event_at"] <= late["event_at"]], 4)
    put(plan, "prompts", lambda row: row["entity_id"] == user, text=shown, teacher_text=shown)
    titles = {row["item_id"]: row["title"] for row in rows_of(plan, "items")}
    told = {line.removeprefix("- ") for line in shown.splitlines()}
    # Where an item of the prompt comes again later the audit cannot tell, and says the later time.
    acted = [row for row in rows_of(plan, "interactions") if row["user_id"] == user]
    known_at = max(row["event_at"] for row in acted if titles[row["item_id"]] in told)
    assert known_at >= late["event_at"]
    return ids(row for row in of_user(plan, user) if row["event_at"] <= known_at)


def spoil_frequency(plan):
    """An item's counts are one too high, another's are counted for longer."""
    one, other = "i03", "i05"
    put(plan, "item_stats", lambda row: row["item_id"] == one, exposures=lambda row: row["exposures"] + 1)
    put(plan, "item_stats", lambda row: row["item_id"] == other, counted_until=lambda row: row["counted_until"] + LATER)
    return ids(row for row in rows_of(plan) if row["item_id"] in (one, other))


def spoil_split(plan):
    """A test row is dealt to train, another is dated later than it was."""
    one, other = [row["event_id"] for row in rows_of(plan) if row["split"] == "test"][:2]
    put(plan, "examples", lambda row: row["event_id"] == one, split="train")
    put(plan, "examples", lambda row: row["event_id"] == other, event_at=lambda row: row["event_at"] + LATER)
    return {one, other}


def invent_history(plan):
    """The times and the snapshot are right, but one event of the list never happened."""
    snapshots = [row["snapshot_at"] for row in rows_of(plan, "histories") if row["user_id"] == VICTIM]
    chosen = snapshots[len(snapshots) // 2]
    put(
        plan,
        "histories",
        lambda row: row["user_id"] == VICTIM and row["snapshot_at"] == chosen,
        item_ids=lambda row: [*row["item_ids"][:-1], "nowhere"],
    )
    return ids(row for row in of_user(plan, VICTIM) if row["event_at"] == chosen)


def postpone_user_vector(plan):
    """The victim's vectors are of later snapshots than their examples."""
    put(plan, "user_vectors", lambda row: row["user_id"] == VICTIM, snapshot_at=lambda row: row["snapshot_at"] + LATER)
    return ids(row for row in of_user(plan, VICTIM) if row["user_vector_row"] is not None)


def postpone_prompt(plan):
    """A prompt's snapshot lies in the test window, and the text is true to it."""
    user = drawn_users(plan)[-1]
    events = events_of(plan, user)
    at = next(row["event_at"] for row in events if row["split"] == "test")
    before = [row for row in events if row["event_at"] < at]
    shown = rendered(plan, user, before, 4)
    put(plan, "prompts", lambda row: row["entity_id"] == user, text=shown, teacher_text=shown, snapshot_at=at)
    return ids(row for row in of_user(plan, user) if row["event_at"] <= before[-1]["event_at"])


def date_item_back(plan):
    """An item's text is known from later on than its first rows."""
    rows = [row for row in rows_of(plan) if row["item_id"] == "i09"]
    late = rows[len(rows) // 2]["event_at"]
    put(plan, "items", lambda row: row["item_id"] == "i09", available_at=late)
    return ids(row for row in rows if row["event_at"] < late)


def misnumber(plan):
    """An example names the history of another user, the vector of another item and one that is not there."""
    rows = rows_of(plan)
    one = next(row for row in rows if row["user_id"] == OTHER and row["history_row"] is not None)
    item = next(row["item_vector_row"] for row in rows if row["item_id"] not in (one["item_id"], "i09"))
    history = next(row["history_row"] for row in rows if row["user_id"] == "u1" and row["history_row"] is not None)
    put(
        plan,
        "examples",
        lambda row: row["event_id"] == one["event_id"],
        item_vector_row=item,
        history_row=history,
        user_vector_row=10_000,
    )
    return {one["event_id"]}


def named(plan):
    """Kind of leak → ids of the examples; all are named, and each once."""
    findings = examine(plan)
    rows = findings.rows.to_pylist()
    found = {kind: ids(row for row in rows if row["leak"] == kind) for kind in findings.counts}
    assert {kind: len(events) for kind, events in found.items()} == findings.counts
    return found, rows


def test_whatever_is_moved_past_the_cut_is_named_and_nothing_else(clean, tmp_path):
    plan = copied(clean, tmp_path)
    wanted = {
        "history": spoil_history(plan),
        "user_vector": spoil_user_vector(plan),
        "prompt": spoil_prompt(plan),
        "frequency": spoil_frequency(plan),
        "split": spoil_split(plan),
    }
    assert all(wanted.values())
    late = events_of(plan, VICTIM)[-1]["event_at"]
    found, rows = named(plan)
    assert found == wanted
    assert {row["known_at"] for row in rows if row["leak"] == "history"} == {late}


def test_what_lies_is_found_out(clean, tmp_path):
    plan = copied(clean, tmp_path)
    misnumbered = misnumber(plan)
    early = date_item_back(plan)
    is_drawn = any(row["entity_id"] == "i09" and row["level"] == "item" for row in rows_of(plan, "prompts"))
    wanted = {
        "history": invent_history(plan) | misnumbered,
        "user_vector": postpone_user_vector(plan) | misnumbered,
        "prompt": postpone_prompt(plan) | (early if is_drawn else set()),
        "item_vector": early | misnumbered,
    }
    assert all(wanted.values())
    found, rows = named(plan)
    assert found == wanted
    assert any("never happened" in row["evidence"] for row in rows)


def test_where_users_are_divided_no_judged_user_is_read_about(tmp_path, spark):
    plan = make_world(tmp_path / "work", write_source(tmp_path, split="user", events="all"))
    split_of = {row["user_id"]: row["split"] for row in rows_of(plan, "interactions")}
    assert {split_of[user] for user in drawn_users(plan)} == {"train"}
    judged = next(user for user, split in split_of.items() if split == "test" and user != "u9")
    prompt = next(row for row in rows_of(plan, "prompts") if row["level"] == "user")
    before = [row for row in events_of(plan, judged) if row["event_at"] < prompt["snapshot_at"]]
    shown = rendered(plan, judged, before, 4)
    put(
        plan,
        "prompts",
        lambda row: row["prompt_id"] == prompt["prompt_id"],
        entity_id=judged,
        text=shown,
        teacher_text=shown,
    )
    found, _ = named(plan)
    assert found == {"prompt": ids(r for r in of_user(plan, judged) if r["event_at"] <= before[-1]["event_at"])}


def call(plan, clean, *more):
    """`msd audit` as it is called."""
    arguments = ["audit", "--source", str(clean / "source.toml"), "--preset", "tiny"]
    for override in (*OVERRIDES, *more):
        arguments += ["--set", override]
    with pytest.raises(SystemExit) as ended:
        main([*arguments, "--work", str(plan.workspace.root)])
    return ended.value.code


def test_the_command_and_the_stage_agree_on_a_clean_world(clean, tmp_path, capsys):
    plan = copied(clean, tmp_path)
    assert call(plan, clean) == 0
    assert f"{len(rows_of(plan))} examples examined; nothing" in capsys.readouterr().out
    assert pq.read_table(plan.workspace.root / "audit" / "audit.parquet").num_rows == 0
    assert len({row["history_row"] for row in rows_of(plan)}) > 100
    assert any(row["user_vector_row"] is not None for row in rows_of(plan))
    run_stage(plan, BY_NAME["audit"])
    assert plan.dataset("audit").details == {"leaks": {}, "examined": len(rows_of(plan))}


def test_the_command_names_rows_counts_all_and_ends_with_one(clean, tmp_path, capsys):
    plan = copied(clean, tmp_path)
    put(plan, "item_stats", lambda row: True, clicks=lambda row: row["clicks"] + 1)
    assert call(plan, clean, "audit.max_named=12") == 1
    said = capsys.readouterr()
    total = len(rows_of(plan))
    assert f"frequency {total}" in said.out
    assert f"and {total - 10} more" in said.out
    assert "item_stats, changed since it was made (part-00000.parquet)" in " ".join(said.err.split())
    assert pq.read_table(plan.workspace.root / "audit" / "audit.parquet").num_rows == 12


def test_what_is_not_made_yet_is_said_with_the_command(clean, tmp_path):
    plan = plan_in(tmp_path / "empty", clean / "source.toml")
    with pytest.raises(StageError, match="run: msd run examples interactions"):
        examine(plan)
