"""DeepFM and DIN against plain definitions, and what must not change their answer."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from msd_models.backbones import BACKBONES, Attention, Backbone, Dice, Shape
from msd_models.ctr_inputs import Tables, read_inputs
from msd_models.vector_tables import read_vectors

VECTORS = ("item_features", "user_features", "item_text_vectors", "user_text_vectors")
SHAPE = Shape(embedding_dim=4, hidden=(8, 6), dropout=0.0, num_extra=3)


@pytest.fixture(scope="module")
def inputs(make_ctr_world, tmp_path_factory):
    world = make_ctr_world(tmp_path_factory.mktemp("world"))
    vectors = read_vectors(**{name: world[name] for name in VECTORS})
    tables = Tables(**{name: dataset for name, dataset in world.items() if name not in VECTORS})
    return read_inputs(tables, vectors.item_rows, 6, 2)


def built(backbone, inputs):
    torch.manual_seed(0)
    model = BACKBONES[backbone](inputs, SHAPE)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model


def test_the_activation_unit_is_the_papers_in_one_piece():
    torch.manual_seed(0)
    attention = Attention(6)
    events, target = torch.randn(9, 6), torch.randn(4, 6)
    example = torch.tensor([0, 0, 0, 1, 3, 3, 3, 3, 3])
    beside = target[example]
    plain_PH = attention.first(torch.cat([events, beside, events - beside, events * beside], dim=1))
    weight = attention.last(attention.dice(plain_PH))
    expected = torch.stack([(weight * events)[example == row].sum(0) for row in range(4)])
    torch.testing.assert_close(attention(events, target, example), expected)


def test_dice_is_normalised_in_training_and_remembers_for_evaluation():
    torch.manual_seed(0)
    dice, x = Dice(3), 5 + 2 * torch.randn(1000, 3)
    trained = dice(x)
    gate = torch.sigmoid((x - x.mean(0)) / x.std(0, correction=0))
    torch.testing.assert_close(trained, gate * x, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(dice.eval()(x), trained, atol=1e-4, rtol=1e-4)
    assert torch.isfinite(dice.train()(x[:1])).all()
    assert dice(x[:0]).shape == (0, 3)


@pytest.mark.parametrize("backbone", list(Backbone))
@pytest.mark.parametrize("is_training", [True, False])
def test_order_and_padding_of_the_history_change_nothing(inputs, backbone, is_training):
    model = built(backbone, inputs).train(is_training)
    batch, extra = inputs.batch(torch.arange(40)), torch.randn(40, 3)
    order = torch.randperm(6)
    history, liked = batch.history_BL, batch.is_liked_BL
    nothing = torch.zeros(40, 5, dtype=history.dtype)
    moved = replace(batch, history_BL=history[:, order], is_liked_BL=liked[:, order])
    padded = replace(
        batch,
        history_BL=torch.cat([history, nothing], 1),
        is_liked_BL=torch.cat([liked, nothing.bool()], 1),
    )
    logit = model(batch, extra)
    torch.testing.assert_close(model(moved, extra), logit, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(model(padded, extra), logit, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("backbone", list(Backbone))
def test_logits_are_finite_and_gradients_reach_every_parameter(inputs, backbone):
    model = built(backbone, inputs)
    batch = inputs.batch(torch.arange(64))
    batch = replace(batch, is_liked_BL=batch.is_liked_BL & (torch.rand(batch.is_liked_BL.shape) < 0.5))
    logit = model(batch, torch.randn(64, 3))
    assert logit.shape == (64,)
    assert torch.isfinite(logit).all()
    nn.functional.binary_cross_entropy_with_logits(logit, batch.click_B).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("backbone", list(Backbone))
def test_an_example_without_history_is_scored(inputs, backbone):
    batch = inputs.batch(torch.arange(5))
    empty = replace(batch, history_BL=batch.history_BL * 0, is_liked_BL=batch.is_liked_BL & False)
    assert torch.isfinite(built(backbone, inputs)(empty, torch.zeros(5, 3))).all()


def test_the_fm_part_counts_every_pair_once(inputs):
    model = built(Backbone.DEEPFM, inputs)
    batch = inputs.batch(torch.arange(10))
    with torch.no_grad():
        model.dense[-1].weight.zero_()
        model.dense[-1].bias.zero_()
        fields = list(model.embeddings(batch).unbind(1))
        events = model.embeddings.table(model.embeddings.catalogue_codes_C2[batch.history_BL])
        present = (batch.history_BL > 0).float()
        fields += [
            (events[:, :, part] * present.unsqueeze(-1)).sum(1) / present.sum(1, keepdim=True) for part in (0, 1)
        ]
        expected = model.linear(batch.codes_BF).sum((1, 2))
        for one in range(len(fields)):
            for other in range(one):
                expected = expected + (fields[one] * fields[other]).sum(1)
        torch.testing.assert_close(model(batch, torch.zeros(10, 3)), expected, atol=1e-5, rtol=1e-5)
