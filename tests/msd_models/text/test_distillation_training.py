"""Training: going on after a kill, several processes, accumulated passes, and adapters, all to the same student."""

import json
import time
from dataclasses import replace
from functools import partial

import pytest
import torch
from model_children import distil_in, end, kill, launch_group
from safetensors.torch import load_file

from msd_models.distillation_job import run_training, work
from msd_models.distillation_rows import training_rows
from msd_models.distillation_training import epoch_file, load_epoch, trained_weights
from msd_models.language_model import load_causal
from msd_models.student_layers import initial_student, with_adapters, without_adapters
from msd_models.student_prompt import prompt_ids
from pipeline.errors import StageError
from pipeline.storage import file_digest

EPOCHS = 3


@pytest.fixture(scope="module")
def trained(teacher_rows, tiny_settings, tmp_path_factory):
    """`trained(**changes)` → (epoch weights, Training, folder) after EPOCHS epochs on 20 rows."""

    def _trained(launch=None, **changes):
        settings = replace(tiny_settings, epochs=EPOCHS, **changes)
        usable = [row for row in teacher_rows if row["status"] == "ok"][:20]
        model, tokenizer = initial_student(settings, [row["text"] for row in usable])
        rows = training_rows(usable, prompt_ids(tokenizer), settings.max_length)
        folder = tmp_path_factory.mktemp("training")
        _, training = run_training(model, rows, settings, tokenizer.pad_token_id, folder, launch)
        return load_file(epoch_file(folder, EPOCHS)), training, folder

    return _trained


@pytest.fixture(scope="module")
def alone(trained):
    return trained()


def assert_close(one, other, atol):
    assert one.keys() == other.keys()
    for name, weight in one.items():
        torch.testing.assert_close(
            weight, other[name], rtol=0, atol=atol, msg=lambda text, name=name: f"{name}: {text}"
        )


def test_the_loss_falls_and_every_epoch_is_kept(alone):
    _, training, folder = alone
    assert training.loss_last < training.loss_first
    assert sorted(path.name for path in folder.glob("epoch-*")) == [f"epoch-00{n}.safetensors" for n in (1, 2, 3)]
    first, last = load_file(epoch_file(folder, 1)), load_file(epoch_file(folder, EPOCHS))
    assert any(not torch.equal(first[name], last[name]) for name in first)


@pytest.mark.parametrize("changes", [{"accumulate": 2}, {"accumulate": 8}, {"pack": False}])
def test_how_a_step_is_computed_does_not_change_the_student(alone, trained, changes):
    weights, training, _ = trained(**changes)
    assert_close(weights, alone[0], atol=2e-3)
    assert training.loss_last == pytest.approx(alone[1].loss_last, rel=1e-3)


def test_two_processes_make_nearly_the_same_student(alone, trained, fork_child):
    weights, training, folder = trained(processes=2, launch=partial(launch_group, fork_child, work))
    assert training.loss_last < training.loss_first
    assert training.loss_last == pytest.approx(alone[1].loss_last, rel=1e-3)
    assert_close(weights, alone[0], atol=2e-3)
    assert len(list(folder.glob("epoch-*.safetensors"))) == EPOCHS
    assert (folder / "job" / "training.json").is_file()


@pytest.mark.slow
def test_a_failing_process_is_a_sentence(teacher_rows, tiny_settings, tmp_path):
    settings = replace(tiny_settings, processes=2, epochs=1)
    model, tokenizer = initial_student(settings, ["a text"])
    usable = [row for row in teacher_rows if row["status"] == "ok"][:8]
    rows = training_rows(usable, prompt_ids(tokenizer), settings.max_length)
    beyond = [{**row, "input_ids": [10**6] * row["length"]} for row in rows]
    with pytest.raises(StageError, match="ended with exit code 1: IndexError: index out of range"):
        run_training(model, beyond, settings, tokenizer.pad_token_id, tmp_path)
    assert "index out of range" in (tmp_path / "job" / "failed.log").read_text()


def test_adapters_start_at_nought_train_alone_and_merge(tiny_settings, teacher_rows, tmp_path):
    settings = replace(tiny_settings, lora_rank=4, epochs=1, learning_rate=1e-2)
    usable = [row for row in teacher_rows if row["status"] == "ok"][:16]
    model, tokenizer = initial_student(settings, [row["text"] for row in usable])
    ids = torch.tensor([training_rows(usable, prompt_ids(tokenizer), 256)[0]["input_ids"]])
    with torch.no_grad():
        before = model(input_ids=ids).logits
        adapted = with_adapters(model, settings)
        torch.testing.assert_close(adapted(input_ids=ids).logits, before, rtol=0, atol=0)
    names = set(trained_weights(adapted))
    assert names
    assert all("lora_" in name for name in names)
    assert all((weight == 0).all() for name, weight in trained_weights(adapted).items() if "lora_B" in name)

    plain, _ = initial_student(settings, [row["text"] for row in usable])
    base = {name: weight.clone() for name, weight in plain.state_dict().items()}
    rows = training_rows(usable, prompt_ids(tokenizer), 256)
    result, _ = run_training(plain, rows, settings, tokenizer.pad_token_id, tmp_path)
    load_epoch(result, tmp_path, 1)
    frozen = {
        name.replace("base_model.model.", "").replace(".base_layer", ""): w for name, w in result.named_parameters()
    }
    assert all(torch.equal(frozen[name], weight) for name, weight in base.items() if name in frozen)
    with torch.no_grad():
        adapted_logits = result(input_ids=ids).logits
        merged = without_adapters(result)(input_ids=ids).logits
    torch.testing.assert_close(merged, adapted_logits, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(merged, before, atol=1e-3)


def test_only_some_weights_are_trained_where_embeddings_are_frozen(student, tiny_settings):
    settings = replace(tiny_settings, base_model=str(student.folder / "model"), num_layers=1)
    model, _ = initial_student(settings, [])
    assert not any("embed" in name for name in trained_weights(model))


@pytest.mark.parametrize("changes", [{}, {"lora_rank": 4, "accumulate": 2}])
def test_a_run_killed_within_an_epoch_goes_on_to_the_same_student(
    teacher_outputs, log, tiny_settings, fork_child, tmp_path, changes
):
    settings = replace(tiny_settings, epochs=20, checkpoint_steps=7, **changes)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    inputs = {"teacher_outputs": teacher_outputs, **log}
    first, second = fork_child(distil_in, whole, settings, inputs), fork_child(distil_in, killed, settings, inputs)
    while not list(killed.glob("_checkpoints/checkpoint-*/trainer_state.json")) and second.poll() is None:
        time.sleep(0.02)
    kill(second)
    assert not (killed / "model").exists(), "the kill came too late to test anything"
    third = fork_child(distil_in, killed, settings, inputs)
    for process in (first, third):
        end(process)
    details = [json.loads((folder / "details.json").read_text()) for folder in (whole, killed)]
    weights = [file_digest(folder / "model" / "model.safetensors") for folder in (whole, killed)]
    assert weights[0] == weights[1]
    for name in ("f1_micro", "train_loss_first", "train_loss_last", "curve", "chosen_epoch"):
        assert details[0][name] == details[1][name]
    load_causal(whole / "model", torch.float32)
