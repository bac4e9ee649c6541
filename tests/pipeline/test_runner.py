"""The runner with tiny stages that do real work: fingerprints, shards that survive a kill, counts, locks."""

import hashlib
import os
import signal
import subprocess
import sys
import time
from dataclasses import fields, replace

import pyarrow as pa
import pytest

from pipeline import schemas
from pipeline.errors import BusyError, ConfigError, MsdError, StageError
from pipeline.runner import make_plan, run, run_slice, run_stage
from pipeline.settings import resolve
from pipeline.source import load_source
from pipeline.stages import BY_NAME, STAGES, with_ancestors
from pipeline.storage import Outcome, Workspace, commit, held_by_us, write_shard
from pipeline.view import show_dataset

NUM_PROMPTS = 10
SOURCE = """
[items]
path = "items.csv"
[events]
path = "events.csv"
[users]
path = "users.csv"
[labels]
min_history = 0
"""

MAKERS = '''
"""Makers that a run may be killed in: MSD_TEST_KILL_AT is the batch before which the process kills itself."""

import os
import signal

import pyarrow as pa

from pipeline import schemas
from pipeline.storage import Outcome


def teach(batches, config):
    for number, batch in enumerate(batches):
        if os.environ.get("MSD_TEST_KILL_AT") == str(number):
            os.kill(os.getpid(), signal.SIGKILL)
        yield answered(batch)


def answered(batch):
    rows = []
    for row in batch.to_pylist():
        is_bad = row["entity_id"].endswith("7")
        answer = dict.fromkeys(schemas.TEACHER_OUTPUTS.names, row["text"])
        answer |= {"prompt_id": row["prompt_id"], "status": "rejected" if is_bad else "ok",
                   "reason": "ends in seven" if is_bad else None, "explicit_phrases": [row["text"]],
                   "implicit_phrases": [], "reference_ids": []}
        answer |= {field.name: 1 for field in schemas.TEACHER_OUTPUTS if pa.types.is_integer(field.type)}
        rows.append(answer)
    return pa.RecordBatch.from_pylist(rows, schema=schemas.TEACHER_OUTPUTS)


def remember(batches, config, store):
    for batch in batches:
        keys = [row["entity_id"] for row in batch.to_pylist()]
        known = store.get_many(keys)
        for key in keys:
            if key not in known:
                with open(os.environ["MSD_TEST_LOG"], "a") as log:
                    log.write(key + " ")
                store.put(key, {"said": key})
        yield answered(batch)


def keep_even(batches, config):
    for batch in batches:
        kept = batch.filter(pa.array([int(row) % 2 == 0 for row in batch.column("entity_id").to_pylist()]))
        yield answered(kept)


def stop_early(batches, config):
    yield answered(next(iter(batches)))


def double(batches, config):
    for batch in batches:
        yield pa.concat_batches([answered(batch), answered(batch)])


def lose_a_column(batches, config):
    for batch in batches:
        yield answered(batch).drop_columns(["raw_text"])


def write_model(config, folder, teacher_outputs, **others):
    (folder / "model.txt").write_text(str(teacher_outputs.num_rows()))
    return Outcome(rows_in=teacher_outputs.num_rows(), rows_ok=teacher_outputs.num_rows(), details={"layers": config.num_layers})


def read_source(config, folder, source, teacher_outputs, **others):
    (folder / "name.txt").write_text(source.name)
    return Outcome()
'''  # noqa: E501

RUN_ALONE = """
import sys
from dataclasses import replace
from pathlib import Path
from pipeline.runner import make_plan, run_stage
from pipeline.settings import resolve
from pipeline.source import load_source
from pipeline.stages import BY_NAME
from pipeline.storage import Workspace
sys.path.insert(0, sys.argv[1])
root = Path(sys.argv[1])
settings = resolve("tiny", ("teacher_outputs.shard_rows=3",))
plan = make_plan(Workspace(root / "work"), load_source(str(root / "mine.toml")), settings)
run_stage(plan, replace(BY_NAME["teacher_outputs"], maker="tiny_makers:teach", version=1))
"""


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A folder with a source, committed prompts, and makers that can be imported."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "tiny_makers.py").write_text(MAKERS)
    for name in ("items", "events", "users"):
        (tmp_path / f"{name}.csv").write_text(f"{name}\n1\n")
    (tmp_path / "mine.toml").write_text(SOURCE)
    prompts = plan_in(tmp_path).dataset("prompts")
    prompts.folder.mkdir(parents=True)
    write_shard(prompts.folder / "part-00000.parquet", prompt_rows())
    commit(prompts, Outcome(rows_in=NUM_PROMPTS, rows_ok=NUM_PROMPTS), {})
    return tmp_path


def prompt_rows():
    rows = [
        {"prompt_id": f"item:{number}", "level": "item", "entity_id": str(number), "snapshot_at": None, "stratum": "s",
         "text": f"text {number}", "representative_id": f"item:{number}", "teacher_text": f"text {number}",
         "inclusion_probability": 1.0}
        for number in range(NUM_PROMPTS)
    ]  # fmt: skip
    return pa.Table.from_pylist(rows, schema=schemas.PROMPTS)


def plan_in(root, overrides=("teacher_outputs.shard_rows=3",)):
    return make_plan(Workspace(root / "work"), load_source(str(root / "mine.toml")), resolve("tiny", overrides))


def stage_of(maker, name="teacher_outputs", version=1):
    return replace(BY_NAME[name], maker=f"tiny_makers:{maker}", version=version)


def shard_bytes(plan, name="teacher_outputs"):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in plan.dataset(name).shards()}


def run_alone(root, **environment):
    return subprocess.Popen(
        [sys.executable, "-c", RUN_ALONE, str(root)], env={**os.environ, **environment}, stderr=subprocess.DEVNULL
    )


def test_a_stage_is_committed_with_counts_that_add_up(root):
    plan = plan_in(root)
    run_stage(plan, stage_of("teach"))
    manifest = plan.dataset("teacher_outputs").manifest
    assert (manifest["rows_in"], manifest["rows_ok"], manifest["rows_rejected"]) == (10, 9, 1)
    assert manifest["reasons"] == {"ends in seven": 1}
    assert manifest["inputs"] == {"prompts": plan.dataset("prompts").fingerprint}
    assert manifest["seconds"] >= 0
    assert [path.name for path in plan.dataset("teacher_outputs").shards()] == [
        f"part-0000{n}.parquet" for n in range(4)
    ]
    assert plan.dataset("teacher_outputs").table(["entity_id"]).num_rows == 10


def test_rows_a_maker_leaves_out_are_counted_as_skipped(root):
    plan = plan_in(root)
    run_stage(plan, stage_of("keep_even"))
    manifest = plan.dataset("teacher_outputs").manifest
    assert (manifest["rows_in"], manifest["rows_ok"], manifest["rows_skipped"]) == (10, 5, 5)


def test_a_committed_stage_is_not_made_again(root):
    plan = plan_in(root)
    run_stage(plan, stage_of("teach"))
    before = (plan.dataset("teacher_outputs").folder / "manifest.json").stat().st_mtime_ns
    run_stage(plan, stage_of("stop_early"))
    assert run(plan, ["teacher_outputs"]) == []
    assert (plan.dataset("teacher_outputs").folder / "manifest.json").stat().st_mtime_ns == before


@pytest.mark.parametrize("kill_at", range(4))
def test_a_killed_stage_goes_on_at_the_missing_shard_with_the_same_bytes(root, kill_at):
    process = run_alone(root, MSD_TEST_KILL_AT=str(kill_at))
    assert process.wait(60) == -signal.SIGKILL
    plan = plan_in(root)
    assert plan.dataset("teacher_outputs").manifest is None
    survivors = {path.name: path.stat().st_mtime_ns for path in plan.dataset("teacher_outputs").shards()}
    assert len(survivors) == kill_at
    run_stage(plan, stage_of("teach"))
    resumed = shard_bytes(plan)
    after = {path.name: path.stat().st_mtime_ns for path in plan.dataset("teacher_outputs").shards()}
    assert survivors.items() <= after.items()

    undisturbed = plan_in(root)
    for path in plan.dataset("teacher_outputs").folder.iterdir():
        path.unlink()
    run_stage(undisturbed, stage_of("teach"))
    assert shard_bytes(undisturbed) == resumed


def test_slices_make_disjoint_shards_and_the_whole_run_finds_them(root, monkeypatch):
    log = root / "made.txt"
    monkeypatch.setenv("MSD_TEST_LOG", str(log))
    monkeypatch.setitem(BY_NAME, "teacher_outputs", stage_of("remember"))
    plan = plan_in(root)
    output = plan.dataset("teacher_outputs")
    for number in (2, 3, 1):
        run_slice(plan, "teacher_outputs", number, 3)
        assert output.manifest is None
    shards = {path: path.read_bytes() for path in output.shards()}
    assert len(shards) == 4
    run_stage(plan, BY_NAME["teacher_outputs"])
    assert {path: path.read_bytes() for path in output.shards()} == shards
    assert output.manifest["rows_in"] == NUM_PROMPTS
    assert sorted(log.read_text().split(), key=int) == [str(number) for number in range(NUM_PROMPTS)]


def test_what_the_store_holds_is_not_made_again_under_other_settings(root, monkeypatch):
    log = root / "made.txt"
    monkeypatch.setenv("MSD_TEST_LOG", str(log))
    run_stage(plan_in(root), stage_of("remember"))
    other = plan_in(root, ["teacher_outputs.seed=5", "teacher_outputs.shard_rows=4"])
    run_stage(other, stage_of("remember"))
    assert other.dataset("teacher_outputs").manifest is not None
    assert len(log.read_text().split()) == NUM_PROMPTS


def test_a_slice_and_the_whole_run_never_stand_side_by_side(root):
    plan = plan_in(root)
    output = plan.dataset("teacher_outputs")
    with held_by_us(output, part="1-of-2"), held_by_us(output, part="2-of-2"):
        with (
            pytest.raises(BusyError, match="slice 1-of-2 of teacher_outputs is being made"),
            held_by_us(output, part="1-of-2"),
        ):
            pass
        with pytest.raises(BusyError, match="teacher_outputs is being made"), held_by_us(output):
            pass
    with held_by_us(output), pytest.raises(BusyError), held_by_us(output, part="1-of-2"):
        pass


@pytest.mark.parametrize(
    ("name", "part", "sentence"),
    [
        ("student", (1, 2), "is not made row by row"),
        ("teacher_outputs", (3, 2), "numbered 1 to 2"),
        ("item_vectors", (1, 2), "item_vectors needs items, item_stats, student first; run: msd run items"),
    ],
)
def test_a_slice_that_cannot_be_made_says_why(root, name, part, sentence):
    with pytest.raises(MsdError, match=sentence):
        run_slice(plan_in(root), name, *part)


def test_a_file_named_in_a_setting_counts_by_its_bytes(root):
    files = [root / name for name in ("a.toml", "b.toml", "c.toml")]
    for path, content in zip(files, ("one", "one", "two"), strict=True):
        path.write_text(content)
    prints = [plan_in(root, [f"teacher_outputs.references={path}"]).fingerprints for path in files]
    assert prints[0] == prints[1]
    assert prints[0]["prompts"] == prints[2]["prompts"]
    assert prints[0]["teacher_outputs"] != prints[2]["teacher_outputs"]


def test_more_shards_than_names_in_order_are_refused(root):
    prompts = plan_in(root).dataset("prompts")
    write_shard(prompts.folder / "part-00000.parquet", pa.table({"prompt_id": ["p"] * 100_001}))
    with pytest.raises(ConfigError, match=r"would be 100,001 files.*--set teacher_outputs.shard_rows=11"):
        run_stage(plan_in(root, ["teacher_outputs.shard_rows=1"]), stage_of("teach"))


def test_shards_of_another_size_are_made_anew(root):
    assert run_alone(root, MSD_TEST_KILL_AT="2").wait(60) == -signal.SIGKILL
    plan = plan_in(root, ["teacher_outputs.shard_rows=4"])
    assert plan.fingerprints == plan_in(root).fingerprints
    run_stage(plan, stage_of("teach"))
    table = plan.dataset("teacher_outputs").table(["prompt_id"])
    assert table.column("prompt_id").to_pylist() == [f"item:{number}" for number in range(NUM_PROMPTS)]
    assert len(plan.dataset("teacher_outputs").shards()) == 3


@pytest.mark.parametrize(
    ("maker", "message"),
    [
        ("stop_early", "1 shards were made of 4"),
        ("double", "rows went in but"),
        ("lose_a_column", "lacks the columns raw_text"),
    ],
)
def test_a_maker_that_breaks_the_contract_commits_nothing(root, maker, message):
    plan = plan_in(root)
    with pytest.raises(StageError, match=message):
        run_stage(plan, stage_of(maker))
    assert plan.dataset("teacher_outputs").manifest is None


def test_too_many_rejects_fail_by_name_with_the_way_out(root):
    plan = plan_in(root, ["teacher_outputs.shard_rows=3", "teacher_outputs.max_rejected_share=0.05"])
    with pytest.raises(StageError, match=r"1 of 10 rows were rejected.*1 ends in seven.*msd show teacher_outputs"):
        run_stage(plan, stage_of("teach"))
    assert plan.dataset("teacher_outputs").manifest is None


def test_a_shard_size_of_nothing_is_refused(root):
    with pytest.raises(ConfigError, match=r"\[teacher_outputs\] shard_rows must be 1 or more, not 0"):
        run_stage(plan_in(root, ["teacher_outputs.shard_rows=0"]), stage_of("teach"))


def test_an_artifact_gets_its_folder_its_inputs_and_the_source_if_it_asks(root):
    plan = plan_in(root)
    run_stage(plan, stage_of("teach"))
    run_stage(plan, stage_of("write_model", name="student"))
    student = plan.dataset("student")
    assert (student.folder / "model.txt").read_text() == "10"
    assert student.details == {"layers": plan.settings["student"].num_layers}
    assert list(student.manifest["files"]) == ["model.txt"]

    other = plan_in(root, ["student.num_layers=9"])
    run_stage(other, stage_of("read_source", name="student"))
    assert (other.dataset("student").folder / "name.txt").read_text() == "mine"


def test_the_command_a_failed_stage_names_shows_its_rejected_rows(root, capsys):
    plan = plan_in(root, ["teacher_outputs.shard_rows=3", "teacher_outputs.max_rejected_share=0.05"])
    with pytest.raises(StageError, match="msd show teacher_outputs --rejected"):
        run_stage(plan, stage_of("teach"))
    output = plan.dataset("teacher_outputs")
    assert output.manifest is None
    show_dataset(output, 5, rejected=True)
    assert "reason: ends in seven" in capsys.readouterr().out
    with pytest.raises(StageError, match="not made yet"):
        show_dataset(output, 5, rejected=False)


def test_two_runs_at_once_are_one_run_and_a_sentence(root):
    first = run_alone(root, MSD_TEST_KILL_AT="never")
    first.wait(60)
    held = plan_in(root).dataset("teacher_outputs")
    (held.folder / "manifest.json").unlink()
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(root / "work"), held.fingerprint],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(BusyError, match="teacher_outputs is being made by another run"):
            run_stage(plan_in(root), stage_of("teach"))
    finally:
        holder.communicate(b"\n", timeout=30)
    run_stage(plan_in(root), stage_of("teach"))


HOLD = """
import sys
from pathlib import Path
from pipeline.storage import Workspace, held_by_us
with held_by_us(Workspace(Path(sys.argv[1])).dataset("teacher_outputs", sys.argv[2], None)):
    print("held", flush=True)
    sys.stdin.readline()
"""


def changed_stages(before, after):
    return {name for name in before if before[name] != after[name]}


def descendants(name):
    return {stage.name for stage in STAGES if name in {one.name for one in with_ancestors([stage.name])}}


def another(value):
    if isinstance(value, bool):
        return not value
    return (*value, *value) if isinstance(value, tuple) else value + type(value)("1")


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.name)
def test_a_setting_changes_its_stage_and_what_follows_or_nothing(root, stage):
    plan = plan_in(root)
    for field in fields(stage.config):
        config = plan.settings[stage.name]
        value = another(getattr(config, field.name))
        if field.name == "arms_file":
            value = str(root / "arms.toml")
            (root / "arms.toml").write_text('[mine]\nbackbone = "din"\n')
        settings = {**plan.settings, stage.name: replace(config, **{field.name: value})}
        after = make_plan(plan.workspace, plan.source, settings).fingerprints
        wanted = descendants(stage.name) if field.metadata.get("identity", True) else set()
        assert changed_stages(plan.fingerprints, after) == wanted, field.name


@pytest.mark.parametrize(
    ("file", "first"), [("items.csv", "items"), ("events.csv", "interactions"), ("users.csv", "users")]
)
def test_the_bytes_of_a_file_change_who_reads_it_and_what_follows(root, file, first):
    before = plan_in(root).fingerprints
    time.sleep(0.01)
    os.utime(root / file)
    assert plan_in(root).fingerprints == before
    (root / file).write_text("other\n")
    assert changed_stages(before, plan_in(root).fingerprints) == descendants(first)


def test_a_source_key_changes_who_reads_its_table(root):
    before = plan_in(root).fingerprints
    (root / "mine.toml").write_text(SOURCE.replace("min_history = 0", "min_history = 1"))
    assert changed_stages(before, plan_in(root).fingerprints) == descendants("interactions")
    (root / "mine.toml").write_text("# a comment\n" + SOURCE)
    assert plan_in(root).fingerprints == before


def test_stages_only_name_inputs_above_them():
    seen = set()
    for stage in STAGES:
        assert set(stage.inputs) <= seen, stage.name
        seen.add(stage.name)
