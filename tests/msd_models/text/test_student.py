"""Distillation: which tokens carry loss, which layers are kept, and what comes out."""

import json
from dataclasses import replace

import pyarrow.parquet as pq
import pytest
import torch

from msd_models.distillation_rows import IGNORED, training_rows
from msd_models.language_model import load_causal, load_tokenizer
from msd_models.student import distill
from msd_models.student_layers import initial_student, kept_layers
from msd_models.student_prompt import CUE, INSTRUCTION, parse_completion, plain_ids, prompt_ids
from pipeline import schemas
from pipeline.errors import ConfigError, StageError

TINY_EPOCHS = 12


@pytest.fixture(scope="module")
def untrained(tiny_settings, teacher_rows):
    return initial_student(tiny_settings, [row["text"] for row in teacher_rows])


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
    low, high = details["f1_micro_interval"]
    assert low <= details["f1_micro"] <= high
    assert details["train_rows"] + details["choosing_rows"] + details["gold_rows"] <= 45
    assert [entry["epoch"] for entry in details["curve"]] == list(range(1, TINY_EPOCHS + 1))
    best = min(details["curve"], key=lambda entry: entry["nll"])
    assert details["chosen_epoch"] == best["epoch"]


def test_strata_say_where_the_student_is_weak(student):
    strata = json.loads((student.folder / "strata.json").read_text())
    assert set(strata) == {"item"}
    assert set(strata["item"]) == {"other"}
    assert strata["item"]["other"]["rows"] > student.details["gold_rows"] - 1
    assert 0 <= strata["item"]["other"]["f1"] <= 1


def test_the_saved_model_is_what_was_measured(student, tiny_settings):
    from msd_models.phrase_writing import write_phrases

    folder = student.folder / "model"
    held = pq.read_table(student.folder / "holdout.parquet").to_pylist()
    model, prompt = load_causal(folder, torch.float32), prompt_ids(load_tokenizer(folder))
    said = write_phrases(model, prompt, held, tiny_settings.max_length)
    assert [implicit for _, implicit in said] == [row["student_implicit"] for row in held]


def test_nothing_to_learn_from_is_a_sentence(save, teacher_rows, tiny_settings, log, tmp_path):
    rejected = [row for row in teacher_rows if row["status"] == "rejected"]
    outputs = save("teacher_outputs", schemas.TEACHER_OUTPUTS, rejected)
    with pytest.raises(StageError, match="none of 3 teacher rows"):
        distill(tiny_settings, tmp_path, outputs, **log)


def test_wrong_settings_end_in_a_sentence(tiny_settings, teacher_outputs, log, tmp_path):
    wrong = [
        ({"choose_by": "luck"}, "choose_by 'luck' is unknown"),
        ({"curve": ("f2",)}, "curve 'f2' is unknown"),
        ({"holdout_share": 0.6, "choosing_share": 0.4}, "wanted the first two below 1"),
        ({"train_share": 0.0}, "train_share in"),
        ({"accumulate": 3}, "cannot share out"),
        ({"lora_rank": -1}, "lora_rank is -1"),
        ({"shuffle_phrases": -1}, "wanted 0 or more"),
        ({"num_layers": 0}, "wanted 1 or more"),
    ]
    for changes, sentence in wrong:
        with pytest.raises(ConfigError, match=sentence):
            distill(replace(tiny_settings, **changes), tmp_path, teacher_outputs, **log)
