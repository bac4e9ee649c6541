"""Distillation: which rows, which tokens carry loss, what comes out, and going on after a kill."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pyarrow.parquet as pq
import pytest
import torch

from msd_models.distillation_rows import IGNORED, collate, split_rows, training_rows
from msd_models.distillation_training import completion_loss
from msd_models.language_model import load_causal, load_tokenizer
from msd_models.student import distill
from msd_models.student_layers import initial_student, kept_layers
from msd_models.student_prompt import CUE, INSTRUCTION, parse_completion, plain_ids, prompt_ids
from pipeline.errors import ConfigError, StageError
from pipeline.storage import file_digest


@pytest.fixture(scope="module")
def untrained(tiny_settings, teacher_rows):
    return initial_student(tiny_settings, [row["text"] for row in teacher_rows])


def test_every_row_is_trained_on_held_out_or_skipped(teacher_rows, tiny_settings):
    split = split_rows(teacher_rows, tiny_settings)
    parts = [*split.train, *split.holdout, *split.skipped]
    assert sorted(row["prompt_id"] for row in parts) == sorted(row["prompt_id"] for row in teacher_rows)
    assert all(row["status"] == "rejected" for row in split.skipped)
    assert not {row["entity_id"] for row in split.train} & {row["entity_id"] for row in split.holdout}
    backwards = split_rows(teacher_rows[::-1], tiny_settings)
    assert {row["entity_id"] for row in backwards.holdout} == {row["entity_id"] for row in split.holdout}


def test_a_text_of_the_holdout_is_not_trained_on_under_another_id(teacher_rows, tiny_settings):
    held = split_rows(teacher_rows, tiny_settings).holdout[0]
    free = next(n for n in range(1000) if not split_rows([_as(held, n)], replace(tiny_settings)).holdout)
    split = split_rows([*teacher_rows, _as(held, free)], tiny_settings)
    assert f"x{free}" in {row["entity_id"] for row in split.skipped}


def _as(row, number):
    return {**row, "entity_id": f"x{number}", "prompt_id": f"item:x{number}"}


def test_only_the_completion_is_labelled(untrained, teacher_rows, tiny_settings):
    _, tokenizer = untrained
    prompt = prompt_ids(tokenizer)
    rows = [row for row in teacher_rows if row["status"] == "ok"]
    for made, row in zip(training_rows(rows, prompt, 256), rows, strict=True):
        labelled = [label for label in made["labels"] if label != IGNORED]
        first = len(made["labels"]) - len(labelled)
        assert tokenizer.decode(made["input_ids"][:first]) == f"{INSTRUCTION}{row['text']}{CUE}"
        assert made["input_ids"][first:] == labelled
        assert labelled[-1] == tokenizer.eos_token_id
        assert parse_completion(tokenizer.decode(labelled[:-1])) == (row["explicit_phrases"], row["implicit_phrases"])


def test_long_texts_keep_instruction_cue_and_the_wanted_end(untrained):
    _, tokenizer = untrained
    prompt = prompt_ids(tokenizer)
    words = " ".join(f"word{number}" for number in range(300))
    head = tokenizer.decode(prompt.of(words, max_tokens=60, keep_end=False))
    tail = tokenizer.decode(prompt.of(words, max_tokens=60, keep_end=True))
    assert head.startswith(f"{INSTRUCTION}word0 word1")
    assert tail.endswith(f"word299{CUE}")
    assert len(prompt.of(words, max_tokens=60, keep_end=True)) == 60


def test_control_tokens_in_a_text_are_plain_characters(untrained):
    _, tokenizer = untrained
    assert tokenizer.eos_token_id not in plain_ids(tokenizer, f"end {tokenizer.eos_token} here")


def test_loss_is_the_models_own_on_unpadded_rows(untrained, teacher_rows):
    model, tokenizer = untrained
    rows = training_rows([row for row in teacher_rows if row["status"] == "ok"][:5], prompt_ids(tokenizer), 256)
    batch = collate(rows, tokenizer.pad_token_id)
    with torch.no_grad():
        ours = completion_loss(model, batch["input_ids"], batch["labels"]).item()
        total, count = 0.0, 0
        for row in rows:
            ids, labels = torch.tensor([row["input_ids"]]), torch.tensor([row["labels"]])
            labelled = int((labels != IGNORED).sum())
            total += model(input_ids=ids, labels=labels).loss.item() * labelled
            count += labelled
    assert ours == pytest.approx(total / count, rel=1e-4)


@pytest.mark.parametrize(("base", "kept"), [(30, 6), (30, 1), (30, 30), (4, 3), (2, 2)])
def test_kept_layers_are_spread_with_both_ends(base, kept):
    layers = kept_layers(base, kept)
    assert len(set(layers)) == kept
    assert layers == sorted(layers)
    assert layers[0] == 0
    assert kept == 1 or layers[-1] == base - 1


def test_fewer_layers_carry_the_base_models_weights(student, tiny_settings):
    folder = student.folder / "model"
    wanted = replace(tiny_settings, base_model=str(folder), num_layers=2)
    same, tokenizer = initial_student(wanted, [])
    base = load_causal(folder, torch.float32)
    ids = torch.tensor([plain_ids(tokenizer, "drums and lanterns")])
    with torch.no_grad():
        assert torch.allclose(same(input_ids=ids).logits, base(input_ids=ids).logits, atol=1e-5)
    shorter, _ = initial_student(replace(wanted, num_layers=1), [])
    assert len(shorter.model.layers) == 1
    with pytest.raises(ConfigError, match="has 2 layers"):
        initial_student(replace(wanted, num_layers=3), [])


def test_the_student_learns_what_the_teacher_implies(student):
    details = student.details
    assert details["f1_micro"] > 0.9
    assert details["f1_untrained_micro"] < 0.2
    assert details["train_loss_last"] < details["train_loss_first"] / 5
    rows = pq.read_table(student.folder / "holdout.parquet").to_pylist()
    assert len(rows) == details["gold_rows"] > 0
    assert all({"student_implicit", "teacher_explicit", "f1", "stratum"} <= set(row) for row in rows)
    manifest = student.manifest
    assert (manifest["rows_in"], manifest["rows_ok"], manifest["rows_skipped"]) == (48, 45, 3)
    assert not (student.folder / "_checkpoints").exists()


def test_the_saved_model_is_what_was_measured(student, tiny_settings):
    from msd_models.student import write_phrases

    folder = student.folder / "model"
    held = pq.read_table(student.folder / "holdout.parquet").to_pylist()
    model, prompt = load_causal(folder, torch.float32), prompt_ids(load_tokenizer(folder))
    said = write_phrases(model, prompt, held, tiny_settings)
    assert [implicit for _, implicit in said] == [row["student_implicit"] for row in held]


def test_nothing_to_learn_from_is_a_sentence(save, teacher_rows, tiny_settings, tmp_path):
    from pipeline import schemas

    rejected = [row for row in teacher_rows if row["status"] == "rejected"]
    with pytest.raises(StageError, match="none of 3 teacher rows"):
        distill(tiny_settings, tmp_path, save("teacher_outputs", schemas.TEACHER_OUTPUTS, rejected))


KILLED = """
import json, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from msd_models.student import distill
from pipeline import config, schemas
from pipeline.storage import Dataset
settings, teacher, folder = json.loads(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3])
outputs = Dataset(name="teacher_outputs", fingerprint="0" * 16, folder=teacher, schema=schemas.TEACHER_OUTPUTS)
folder.mkdir(parents=True, exist_ok=True)
print(json.dumps(distill(config.Student(**settings), folder, outputs).details))
"""


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_same_student(teacher_outputs, tiny_settings, tmp_path):
    settings = {**vars(tiny_settings), "epochs": 30}
    whole, killed = tmp_path / "whole", tmp_path / "killed"

    def start(folder):
        arguments = [json.dumps(settings), str(teacher_outputs.folder), str(folder)]
        return subprocess.Popen([sys.executable, "-c", KILLED, *arguments], stdout=subprocess.PIPE, text=True)

    first = start(whole)
    second = start(killed)
    while not list(killed.glob("_checkpoints/checkpoint-*/trainer_state.json")) and second.poll() is None:
        time.sleep(0.02)
    os.kill(second.pid, signal.SIGKILL)
    second.communicate()
    assert not (killed / "model").exists(), "the kill came too late to test anything"
    third = start(killed)
    details = [json.loads(process.communicate(timeout=300)[0].splitlines()[-1]) for process in (first, third)]
    weights = [file_digest(folder / "model" / "model.safetensors") for folder in (whole, killed)]
    assert weights[0] == weights[1]
    assert details[0]["f1_micro"] == details[1]["f1_micro"]
    assert details[0]["train_loss_first"] == details[1]["train_loss_first"]
