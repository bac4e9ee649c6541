"""Rows of steps and tensors of passes: packed rows neither see nor change each other, and every row is seen once."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from msd_models.distillation_batches import collate, passes_per_step, plan_batches, steps_per_epoch
from msd_models.distillation_rows import IGNORED, training_rows
from msd_models.distillation_training import summed_loss
from msd_models.student_layers import initial_student
from msd_models.student_prompt import prompt_ids
from pipeline.config import Student


@pytest.fixture(scope="module", params=["sdpa", "eager"])
def model_and_rows(request, tiny_settings, teacher_rows):
    usable = [row for row in teacher_rows if row["status"] == "ok"][:6]
    model, tokenizer = initial_student(tiny_settings, [row["text"] for row in usable])
    model.set_attn_implementation(request.param)
    return model, training_rows(usable, prompt_ids(tokenizer), 256)


def gradients(model):
    return {name: weight.grad.clone() for name, weight in model.named_parameters()}


def loss_and_gradients(model, rows, pack):
    model.zero_grad()
    loss = summed_loss(model, collate(rows, 0, pack))
    loss.backward()
    return loss.item(), gradients(model)


def library_loss(model, row):
    """Summed NLL by the library's own loss, one row by itself."""
    ids, labels = torch.tensor([row["input_ids"]]), torch.tensor([row["labels"]])
    return model(input_ids=ids, labels=labels).loss * int((labels != IGNORED).sum())


@pytest.mark.parametrize("pack", [True, False])
def test_loss_and_gradients_are_those_of_rows_by_themselves(model_and_rows, pack):
    model, rows = model_and_rows
    loss, found = loss_and_gradients(model, rows, pack)
    model.zero_grad()
    wanted = sum(library_loss(model, row) for row in rows)
    wanted.backward()
    assert loss == pytest.approx(wanted.item(), rel=1e-5)
    for name, gradient in gradients(model).items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-5, msg=name)


def test_a_packed_row_does_not_change_another_ones_loss(model_and_rows):
    model, rows = model_and_rows
    unlabelled = [{**row, "labels": [IGNORED] * row["length"]} for row in rows]
    alone = [rows[0], *unlabelled[1:]]
    other = [{**row, "input_ids": [(token + 7) % 50 for token in row["input_ids"]]} for row in unlabelled[1:]]
    with torch.no_grad():
        before = summed_loss(model, collate(alone, 0, pack=True))
        after = summed_loss(model, collate([rows[0], *other], 0, pack=True))
        last = summed_loss(model, collate([*other, rows[0]], 0, pack=True))
        by_itself = library_loss(model, rows[0])
    torch.testing.assert_close(before, after, rtol=0, atol=1e-5)
    torch.testing.assert_close(last, after, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(by_itself, after, rtol=1e-5, atol=1e-5)


def test_one_sequence_without_restarting_positions_would_leak(model_and_rows):
    """The check above can fail: rows that do see each other have another loss."""
    model, rows = model_and_rows
    packed = collate(rows, 0, pack=True)
    with torch.no_grad():
        apart = summed_loss(model, packed)
        together = summed_loss(model, {name: tensor for name, tensor in packed.items() if name != "position_ids"})
    assert abs(apart.item() - together.item()) > 1e-3


@given(
    lengths=st.lists(st.integers(2, 40), min_size=1, max_size=40),
    passes=st.sampled_from([(1, 1), (2, 1), (1, 2), (2, 2)]),
    seed=st.integers(0, 3),
)
def test_every_row_is_seen_once_an_epoch_and_steps_do_not_depend_on_how_they_are_shared(lengths, passes, seed):
    rows = [{"length": length, "labels": [IGNORED] + [1] * (length - 1)} for length in lengths]
    accumulate, processes = passes
    settings = Student(batch_size=4, accumulate=accumulate, processes=processes, seed=seed)
    per_step = passes_per_step(settings)
    planned = plan_batches(rows, settings, epochs=2)
    assert len(planned) == 2 * steps_per_epoch(len(rows), settings) * per_step
    seen = [row for batch in planned for row in batch.rows]
    assert sorted(seen) == sorted([*range(len(rows))] * 2)
    whole = plan_batches(rows, replace(settings, accumulate=1, processes=1), epochs=2)
    for place, step in enumerate(whole):
        shared = planned[place * per_step : (place + 1) * per_step]
        assert sorted(row for batch in shared for row in batch.rows) == sorted(step.rows)
        tokens = sum(lengths[row] - 1 for row in step.rows)
        assert {batch.step_tokens for batch in shared} == {tokens}
