"""Backbones against plain definitions, and what must not change their answer."""

from dataclasses import replace

import pytest
import torch
from ctr_world import make_world
from torch import nn

from msd_models.arms import Backbone
from msd_models.attention import Attention, Dice
from msd_models.backbones import BACKBONES, is_sparse_table
from msd_models.ctr_network import CtrNetwork
from msd_models.field_embeddings import SPARSE_FROM_ROWS, Events
from pipeline.config import CtrModel

CONFIG = CtrModel(embedding_dim=4, hidden=(8, 6), dropout=0.0)
EXTRA = 3


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return make_world(tmp_path_factory.mktemp("world"))


def built(backbone, world, config=CONFIG):
    """A backbone whose every weight, marks included, is of some size."""
    torch.manual_seed(0)
    model = BACKBONES[backbone](world.inputs, config, EXTRA)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model


def events_of(vectors_PW, example_P):
    return Events(vectors_PW=vectors_PW, example_P=example_P, is_event_P=None)


def lengthened(batch, place):
    """The batch with four empty positions more, before, among or after its events."""

    def wide(rows_BL):
        nothing = rows_BL.new_zeros(len(rows_BL), 4)
        return torch.cat([rows_BL[:, :place], nothing, rows_BL[:, place:]], dim=1)

    names = ("history_BL", "is_liked_BL", "gap_BL", "history_rows_BL")
    return replace(batch, **{name: wide(getattr(batch, name)) for name in names})


def test_the_activation_unit_is_the_papers_in_one_piece():
    torch.manual_seed(0)
    attention = Attention(6)
    events, target = torch.randn(9, 6), torch.randn(4, 6)
    example = torch.tensor([0, 0, 0, 1, 3, 3, 3, 3, 3])
    beside = target[example]
    plain_PH = attention.first(torch.cat([events, beside, events - beside, events * beside], dim=1))
    weight = attention.last(attention.dice(plain_PH))
    expected = torch.stack([(weight * events)[example == row].sum(0) for row in range(4)])
    torch.testing.assert_close(attention(events_of(events, example), target), expected)


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
@pytest.mark.parametrize("place", [0, 3, 8])
def test_empty_positions_change_nothing(world, backbone, is_training, place):
    model = built(backbone, world).train(is_training)
    batch, extra = world.batch(40), torch.randn(40, EXTRA)
    reading = model.represent(batch, extra)
    torch.testing.assert_close(
        model.represent(lengthened(batch, place), extra).high_BH, reading.high_BH, atol=1e-4, rtol=1e-4
    )


@pytest.mark.parametrize("backbone", list(Backbone))
def test_the_order_of_events_matters_by_their_marks_alone(world, backbone):
    batch, extra = world.batch(40), torch.randn(40, EXTRA)
    order = torch.randperm(8, generator=torch.Generator().manual_seed(1))
    names = ("history_BL", "is_liked_BL", "gap_BL")
    moved = replace(batch, **{name: getattr(batch, name)[:, order] for name in names})
    unmarked = built(backbone, world, replace(CONFIG, history_marks=False))
    same = unmarked.represent(batch, extra).high_BH
    torch.testing.assert_close(unmarked.represent(moved, extra).high_BH, same, atol=1e-4, rtol=1e-4)
    marked = built(backbone, world)
    before, after = (marked.represent(one, extra).high_BH for one in (batch, moved))
    # Where the history is a mean, so are its marks, whatever event they stand beside.
    assert torch.allclose(after, before, atol=1e-4) == (backbone is not Backbone.DIN)


def test_an_event_is_its_item_and_what_is_known_of_it(world):
    embeddings = built(Backbone.DIN, world).embeddings
    batch = world.batch(30)
    events = embeddings(batch).events
    at = 0
    for example in range(30):
        history = batch.history_BL[example].tolist()
        for position, entry in enumerate(history):
            if not entry:
                continue
            later = sum(one > 0 for one in history[position + 1 :])
            codes = world.inputs.catalogue_codes_C2[entry]
            expected = embeddings.table(codes).flatten() + embeddings.places_LW[later]
            expected = expected + embeddings.gaps_GW[batch.gap_BL[example, position]]
            if not batch.is_liked_BL[example, position]:
                expected = expected + embeddings.skipped_W
            assert events.example_P[at] == example
            torch.testing.assert_close(events.vectors_PW[at], expected)
            at += 1
    assert at == len(events.vectors_PW)


@pytest.mark.parametrize("backbone", list(Backbone))
def test_events_are_read_through_the_catalogue_or_one_by_one(world, backbone):
    """Few events name rows of the table themselves; where there are many, each catalogue entry is embedded once."""
    model, batch, extra = built(backbone, world).eval(), world.batch(200), torch.randn(200, EXTRA)
    one_by_one = [
        model.represent(world.batch(2, first=first), extra[first : first + 2]).high_BH for first in range(0, 200, 2)
    ]
    torch.testing.assert_close(torch.cat(one_by_one), model.represent(batch, extra).high_BH, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("backbone", list(Backbone))
def test_logits_are_finite_and_gradients_reach_every_parameter(world, backbone):
    network, batch = CtrNetwork(BACKBONES[backbone](world.inputs, CONFIG, 0)), world.batch(64)
    logit = network(batch)
    assert logit.shape == (64,)
    assert torch.isfinite(logit).all()
    network.loss(batch).backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("backbone", list(Backbone))
def test_codes_that_are_not_read_get_no_gradient(world, backbone):
    model, batch = built(backbone, world), world.batch(4)
    model.represent(batch, torch.zeros(4, EXTRA)).high_BH.sum().backward()
    read = set(batch.codes_BF.flatten().tolist())
    entries = batch.history_BL[batch.history_BL > 0]
    read |= set(world.inputs.catalogue_codes_C2[entries].flatten().tolist())
    moved = model.embeddings.table.weight.grad.abs().sum(1).nonzero().flatten().tolist()
    assert set(moved) <= read


@pytest.mark.parametrize("backbone", list(Backbone))
def test_an_example_without_history_is_scored(world, backbone):
    batch = world.batch(5)
    empty = replace(
        batch, history_BL=batch.history_BL * 0, is_liked_BL=batch.is_liked_BL & False, gap_BL=batch.gap_BL * 0
    )
    for is_training in (True, False):
        model = built(backbone, world).train(is_training)
        assert torch.isfinite(model.represent(empty, torch.zeros(5, EXTRA)).high_BH).all()


@pytest.mark.parametrize("backbone", list(Backbone))
def test_a_network_learns_eight_rows_by_heart_and_is_the_same_when_loaded(world, backbone):
    torch.manual_seed(0)
    config = replace(CONFIG, hidden=(16, 16))
    network, batch = CtrNetwork(BACKBONES[backbone](world.inputs, config, 0)), world.batch(8)
    assert 0 < batch.click_B.sum() < 8
    optimiser = torch.optim.Adam(network.parameters(), lr=0.03)
    for _ in range(150):
        optimiser.zero_grad()
        network.loss(batch).backward()
        optimiser.step()
    assert network.loss(batch) < 0.05
    loaded = CtrNetwork(BACKBONES[backbone](world.inputs, config, 0))
    loaded.load_served(network.served_state())
    torch.testing.assert_close(loaded.eval()(batch), network.eval()(batch))


def test_the_fm_part_counts_every_pair_once(world):
    model, batch = built(Backbone.DEEPFM, world), world.batch(10)
    shallow = model.represent(batch, torch.zeros(10, EXTRA)).shallow_B
    embedded = model.embeddings(batch)
    fields = [*embedded.fields_BNE.unbind(1), *model.mean_history(embedded).chunk(2, dim=1)]
    expected = model.first_order(batch.codes_BF).sum((1, 2)) + (batch.numbers_BM * model.first_order_M).sum(1)
    for one in range(len(fields)):
        for other in range(one):
            expected = expected + (fields[one] * fields[other]).sum(1)
    torch.testing.assert_close(shallow, expected, atol=1e-5, rtol=1e-5)


def test_a_number_is_its_value_times_a_learned_embedding(world):
    embeddings, batch = built(Backbone.MLP, world).embeddings, world.batch(10)
    fields = embeddings(batch).fields_BNE
    for number in range(2):
        expected = batch.numbers_BM[:, number : number + 1] * embeddings.numbers_ME[number]
        torch.testing.assert_close(fields[:, len(world.inputs.fields) + number], expected)


def test_the_mean_of_the_history_is_over_its_events(world):
    model, batch = built(Backbone.MLP, world), world.batch(20)
    embedded = model.embeddings(batch)
    mean = model.mean_history(embedded)
    for example in range(20):
        own = embedded.events.vectors_PW[embedded.events.example_P == example]
        torch.testing.assert_close(mean[example], own.mean(0) if len(own) else torch.zeros_like(mean[0]))


def test_cross_layers_follow_the_papers_formula(world):
    model, batch, extra = built(Backbone.DCNV2, world), world.batch(6), torch.randn(6, EXTRA)
    embedded = model.embeddings(batch)
    start = torch.cat([embedded.fields_BNE.flatten(1), model.mean_history(embedded), extra], dim=1)
    crossed = start
    for layer in model.cross:
        crossed = start * (crossed @ layer.weight.T + layer.bias) + crossed
    expected = torch.cat([crossed, model.dense(start)], dim=1)
    torch.testing.assert_close(model.represent(batch, extra).high_BH, expected, atol=1e-4, rtol=1e-4)


def test_large_tables_get_sparse_gradients_and_small_ones_dense(world):
    assert is_sparse_table(SPARSE_FROM_ROWS + 1, "auto")
    assert not is_sparse_table(SPARSE_FROM_ROWS, "auto")
    assert not is_sparse_table(10**9, "adam")
    sparse = built(Backbone.DEEPFM, world, replace(CONFIG, embedding_optimiser="rowwise_adagrad"))
    dense = built(Backbone.DEEPFM, world)
    dense.load_state_dict(sparse.state_dict())
    for model in (sparse, dense):
        reading = model.represent(world.batch(30), torch.ones(30, EXTRA))
        (reading.high_BH.sum() + reading.shallow_B.sum()).backward()
    for name in ("embeddings.table.weight", "first_order.weight"):
        gradient = sparse.get_parameter(name).grad
        assert gradient.is_sparse
        torch.testing.assert_close(gradient.to_dense(), dense.get_parameter(name).grad, atol=1e-4, rtol=1e-4)


def test_the_loss_is_the_entropy_and_the_squared_length_of_what_is_read(world):
    network, batch = CtrNetwork(BACKBONES[Backbone.MLP](world.inputs, CONFIG, 0), weight_decay=0.5), world.batch(9)
    table = network.backbone.embeddings.table
    entropy = nn.functional.binary_cross_entropy_with_logits(network(batch), batch.click_B)
    expected = entropy + 0.5 * table(batch.codes_BF).square().sum((1, 2)).mean()
    torch.testing.assert_close(network.loss(batch), expected)


@pytest.mark.parametrize("backbone", list(Backbone))
def test_lower_precision_gives_about_the_same(world, backbone):
    network, batch = CtrNetwork(BACKBONES[backbone](world.inputs, CONFIG, 0)), world.batch(64)
    full = network.loss(batch)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = network.loss(batch)
    half.backward()
    torch.testing.assert_close(half, full, atol=0.02, rtol=0.02)
