"""tuned_student end to end on a world where a word of the title decides: what it leaves, and what a kill changes."""

import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
import torch
from tuning_world import READING, make_world

from msd_models import tuned_student, tuned_vectors
from msd_models.ctr_records import open_inputs
from msd_models.encoders import StudentEncoder
from msd_models.language_model import cpu_threads, load_causal, load_tokenizer
from msd_models.student_prompt import prompt_ids
from msd_models.tuning_head import TuningHead
from msd_models.tuning_run import Training, World, marks, rate
from msd_models.tuning_step import LiveVectors
from msd_models.tuning_texts import Reading, draw, live_batch, read_texts
from msd_models.upper_layers import LowerLayers, UpperLayers, decoder_of, with_upper_adapters
from pipeline.config import TunedStudent, TunedVectors
from pipeline.errors import ConfigError, SpaceMismatch, StageError
from pipeline.stages import BY_NAME
from pipeline.storage import Dataset, Workspace, commit

CONFIG = TunedStudent(lora_rank=4, max_steps=60, batch_size=32, history_items=4, checkpoint_steps=5, threads=1)
SHORT = replace(CONFIG, max_steps=12)
WHOLE_BATCH = 10**6
INPUTS = BY_NAME["tuned_student"].inputs


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    with cpu_threads(1):
        yield


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    made = make_world(tmp_path_factory.mktemp("world"))
    return {name: made[name] for name in INPUTS} | {"item_stats": made["item_stats"]}


def inputs_of(world):
    return {name: world[name] for name in INPUTS}


def made(folder, world, config=CONFIG, **changes) -> Dataset:
    dataset = Workspace(folder).dataset("tuned_student", "1" * 16, None)
    dataset.folder.mkdir(parents=True)
    commit(dataset, tuned_student.tune(config, dataset.folder, **{**inputs_of(world), **changes}), {})
    return dataset


@pytest.fixture(scope="module")
def tuned(tmp_path_factory, world):
    return made(tmp_path_factory.mktemp("tuned"), world)


def test_tuning_raises_the_valid_auc_and_leaves_a_model_of_another_space(tuned, world):
    told = tuned.details
    assert told["is_tuned"]
    assert told["valid_auc_tuned"] > told["valid_auc_student"]
    assert told["train_loss_last"] < told["train_loss_first"]
    before, after = (StudentEncoder(student, READING) for student in (world["student"], tuned))
    assert before.space_id != after.space_id
    assert before.dimension == after.dimension
    texts = ["gliders 1", "drums 2"]
    assert np.abs(before.encode(texts, keep_end=False) - after.encode(texts, keep_end=False)).max() > 0.01
    assert not list(tuned.folder.glob("_*"))


def test_the_curve_holds_both_trainings(tuned):
    curve = json.loads((tuned.folder / "curve.json").read_text())
    for course in curve.values():
        assert len(course["loss"]) == CONFIG.max_steps
        assert [int(step) for step in course["valid_auc"]] == sorted(marks(CONFIG.max_steps))
    assert curve["student"]["loss"][0] == pytest.approx(curve["tuned"]["loss"][0], abs=1e-4)
    best = max(curve["tuned"]["valid_auc"].values())
    assert tuned.details["valid_auc_tuned"] == pytest.approx(best, abs=1e-6)
    assert curve["tuned"]["valid_auc"][str(tuned.details["chosen_step"])] == best


def test_adapters_in_pefts_format_are_the_merged_model(tuned, world):
    from peft import PeftModel

    base, before = (load_causal(world["student"].folder / "model", torch.float32) for _ in range(2))
    merged = load_causal(tuned.folder / "model", torch.float32)
    with_adapters = PeftModel.from_pretrained(base, tuned.folder / "adapters").merge_and_unload()
    changed = 0
    for name, weight in merged.named_parameters():
        wanted = with_adapters.get_parameter(name)
        # The exported model is bfloat16: eight bits of each number.
        torch.testing.assert_close(weight, wanted, atol=1e-4, rtol=8e-3)
        changed += not torch.equal(weight, before.get_parameter(name))
    assert changed == 7, "the linear layers of the one upper layer"
    assert str(tuned.folder) not in (tuned.folder / "adapters" / "adapter_config.json").read_text()


def test_tuned_vectors_are_read_as_the_students_were(tuned, world):
    config = TunedVectors(batch_tokens=256)
    items = pa.Table.from_batches(
        tuned_vectors.embed_items(world["items"].batches(10), config, world["item_stats"], tuned)
    )
    users = pa.Table.from_batches(
        tuned_vectors.embed_users(world["histories"].batches(50), config, world["items"], world["users"], tuned)
    )
    contexts = pa.Table.from_batches(tuned_vectors.embed_contexts(world["context_texts"].batches(5), config, tuned))
    spaces = {space for table in (items, users, contexts) for space in table.column("space_id").unique().to_pylist()}
    assert spaces == {StudentEncoder(tuned, READING).space_id}
    for mine, theirs in ((items, "item_vectors"), (users, "user_vectors")):
        assert mine.column("content_hash").equals(world[theirs].table(["content_hash"]).column("content_hash"))


def test_no_steps_leave_the_student_and_its_space(tmp_path, world):
    left = made(tmp_path, world, replace(CONFIG, max_steps=0))
    assert not left.details["is_tuned"]
    assert StudentEncoder(left, READING).space_id == StudentEncoder(world["student"], READING).space_id
    assert left.details["reading"]["users"]["max_tokens"] == READING.max_tokens


@pytest.mark.parametrize("read", [{"mode": "behaviours"}, {"dtype": "int8"}])
def test_what_adapters_cannot_be_trained_on_leaves_the_student(tmp_path, world, read):
    other = world["user_vectors"]
    vectors = Workspace(tmp_path).dataset("user_vectors", "3" * 16, other.schema)
    vectors.folder.mkdir(parents=True)
    told = {**other.manifest, "settings": {**other.manifest["settings"], **read}}
    (vectors.folder / "manifest.json").write_text(json.dumps(told))
    left = made(tmp_path, {**world, "user_vectors": vectors}, CONFIG)
    assert not left.details["is_tuned"]
    assert left.manifest["rows_ok"] == 0
    assert left.details["reading"]["users"].items() >= read.items()


def test_a_tuning_that_does_not_help_leaves_the_student(tmp_path, world):
    left = made(tmp_path, world, replace(CONFIG, learning_rate=1e-12, max_steps=2))
    assert not left.details["is_tuned"]
    assert not (left.folder / "adapters").exists()
    assert StudentEncoder(left, READING).space_id == StudentEncoder(world["student"], READING).space_id


def test_items_and_users_of_two_spaces_are_refused(tmp_path, world):
    other = world["user_features"]
    foreign = Workspace(tmp_path).dataset("user_features", "2" * 16, None)
    foreign.folder.mkdir(parents=True)
    told = {**other.manifest, "details": {"space_id": "elsewhere"}}
    (foreign.folder / "manifest.json").write_text(json.dumps(told))
    with pytest.raises(SpaceMismatch, match="elsewhere"):
        made(tmp_path, world, user_features=foreign)


def test_vectors_that_were_published_of_other_texts_are_named(tmp_path, world):
    other = Workspace(tmp_path).dataset("item_features", "2" * 16, None)
    other.folder.mkdir(parents=True)
    for name in ("manifest.json", "rows.parquet"):
        (other.folder / name).write_bytes((world["item_features"].folder / name).read_bytes())
    vectors = np.load(world["item_features"].folder / "vectors.npy")
    np.save(other.folder / "vectors.npy", vectors[::-1])
    with pytest.raises(StageError, match="item_features"):
        made(tmp_path, world, item_features=other)


@pytest.mark.parametrize("changes", [{"batch_size": 1}, {"max_steps": -1}, {"learning_rate": 0.0}])
def test_settings_out_of_range_are_named(tmp_path, world, changes):
    with pytest.raises(ConfigError, match=next(iter(changes))):
        made(tmp_path, world, replace(CONFIG, **changes))


class Killed(Exception):
    """Stands for a process that ends."""


def training(world, stop_after=10**9, config=SHORT):
    """A training from the same start, on states that are computed anew; ends after so many steps."""
    source = world["student"].folder / "model"
    model = with_upper_adapters(load_causal(source, torch.float32), config)
    prompt = prompt_ids(load_tokenizer(source))
    inputs = open_inputs(world["ctr_records"].folder)
    drawn = draw(inputs, config)
    reading = Reading(items=READING, users=READING)
    texts = read_texts(inputs, drawn, prompt, reading, config.history_items, inputs_of(world))
    decoder = decoder_of(model)
    lower, upper = LowerLayers(decoder, 2), UpperLayers(decoder, 2, "last", len(prompt.instruction))
    live = LiveVectors(upper, Computed(lower, texts.ids), config.batch_tokens)
    steps = iter(range(stop_after + 1))

    def advance(amount=1):
        for _ in range(int(amount)):
            if next(steps) == stop_after - 1:
                raise Killed

    torch.manual_seed(5)
    base = {kind: live.encode(torch.from_numpy(numbers)) for kind, numbers in texts.numbers.items()}
    head = TuningHead(inputs, base)
    adapters = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    the_world = World(inputs=inputs, drawn=drawn, texts=texts, config=config)
    return Training(the_world, head, live, adapters, advance)


class Computed:
    """States of texts that are not stored."""

    def __init__(self, lower, ids):
        self.lower, self.ids = lower, ids
        self.lengths_N = torch.tensor([len(row) for row in ids])

    def read(self, texts_B):
        rows = [self.ids[text] for text in texts_B.tolist()]
        width = max(map(len, rows))
        return self.lower(torch.tensor([row + [0] * (width - len(row)) for row in rows])).clone(), self.lengths_N[
            texts_B
        ]


def test_a_killed_training_ends_as_one_that_was_not(tmp_path, world):
    whole = training(world)
    wanted = whole.run(tmp_path / "whole.safetensors")
    with pytest.raises(Killed):
        training(world, stop_after=11).run(tmp_path / "killed.safetensors")
    rest = training(world)
    found = rest.run(tmp_path / "killed.safetensors")
    assert found.losses == wanted.losses
    assert found.valid_auc == wanted.valid_auc
    for name, weight in whole.adapters.items():
        assert torch.equal(rest.adapters[name], weight), name


def test_caching_changes_the_course_by_rounding_alone(world):
    whole, parts = (
        training(world, config=replace(CONFIG, max_steps=4, batch_tokens=n)).run() for n in (WHOLE_BATCH, 200)
    )
    np.testing.assert_allclose(parts.losses, whole.losses, atol=1e-4)


def test_a_step_names_its_own_rows_and_their_texts(world):
    one = training(world)
    inputs, drawn, texts = one.world.inputs, one.world.drawn, one.world.texts
    batch = inputs.batch(drawn.train[:32])
    live = live_batch(inputs, drawn.train[:32], 4, texts)
    for kind, rows, compact in (
        ("items", batch.item_row_B, live.batch.item_row_B),
        ("users", batch.user_row_B, live.batch.user_row_B),
        ("contexts", batch.context_rows_BQ.flatten(), live.batch.context_rows_BQ.flatten()),
    ):
        assert torch.equal(compact == 0, rows == 0)
        named = rows > 0
        assert named.any()
        assert torch.equal(live.texts_R[kind][compact[named] - 1], texts.of(kind, rows[named]))
    kept_BL = live.batch.history_rows_BL > 0
    assert kept_BL.sum(1).max() <= 4
    for row in range(32):
        liked = [p for p in range(kept_BL.shape[1]) if batch.is_liked_BL[row, p] and batch.history_rows_BL[row, p] > 0]
        assert kept_BL[row].nonzero().flatten().tolist() == liked[-4:]


def test_labels_are_drawn_by_the_seed_and_each_once_a_pass(world):
    inputs = open_inputs(world["ctr_records"].folder)
    one, same, other = (draw(inputs, replace(CONFIG, seed=seed)).train for seed in (0, 0, 1))
    assert np.array_equal(one, same)
    assert not np.array_equal(one["event_id"], other["event_id"])
    assert len(one) == CONFIG.max_steps * CONFIG.batch_size
    num_train = inputs.num_rows("train")
    assert len(set(one["event_id"][:num_train].tolist())) == num_train


def test_the_rate_rises_and_falls():
    rates = [rate(step, 100) for step in range(100)]
    assert max(rates) == 1.0
    assert rates.index(1.0) == 9
    assert rates[:10] == sorted(rates[:10])
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[-1] > 0
