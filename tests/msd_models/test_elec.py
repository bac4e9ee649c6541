"""ELEC's loss against a plain formula, what its gradients reach, and what of it is served."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from ctr_world import make_world
from hypothesis import given, settings
from hypothesis import strategies as st

from msd_models.arms_file import read_arms
from msd_models.ctr_network import CtrNetwork
from msd_models.elec import Schedule, TaughtNetwork, representation_distance, score_distance
from msd_models.networks import build
from pipeline.config import CtrModel

ARMS = read_arms()
CONFIG = CtrModel(hidden=(12, 8), embedding_dim=4, adaptor_dim=6, dropout=0.0, mask="none", weight_decay=0.01)
LOGITS = st.lists(st.tuples(st.floats(-15, 15), st.floats(-15, 15)), min_size=1, max_size=8)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return make_world(tmp_path_factory.mktemp("world"))


def built(world, arm="elec_vanilla", **settings):
    return build(ARMS[arm], ARMS, 1, world.inputs, world.vectors, replace(CONFIG, **settings))


def sigmoid(x):
    return 1 / (1 + np.exp(-np.asarray(x, dtype=np.float64)))


def entropy(logit, wanted):
    return -(wanted * np.log(sigmoid(logit)) + (1 - wanted) * np.log(1 - sigmoid(logit))).mean()


@given(LOGITS, st.sampled_from([1.0, 2.0, 4.0]))
@settings(max_examples=100, deadline=None)
def test_the_score_distance_is_the_softened_divergence(pairs, temperature):
    own, taught = (np.array(column) for column in zip(*pairs, strict=True))
    p, q = sigmoid(taught / temperature), sigmoid(own / temperature)
    expected = temperature**2 * (p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))).mean()
    made = score_distance(torch.tensor(own), torch.tensor(taught), temperature).item()
    assert made == pytest.approx(expected, abs=1e-8, rel=1e-6)
    assert made >= -1e-9


def test_the_whole_loss_is_the_papers_sum(world):
    batch = world.batch(50)
    for schedule in Schedule:
        network = built(world, schedule=schedule, temperature=4.0, score_weight=0.3, representation_weight=0.7)
        network.train()
        own, taught = network.read(batch), network.gain.read(batch)
        click = batch.click_B.numpy()
        y_v, y_g = own.logit_B.detach().double().numpy(), taught.logit_B.detach().double().numpy()
        r_v, r_g = own.high_BH.detach().double().numpy(), taught.high_BH.detach().double().numpy()
        p, q = sigmoid(y_g / 4), sigmoid(y_v / 4)
        divergence = (p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))).mean()
        projected = r_v @ network.projection.weight.detach().double().numpy().T
        distance = ((projected - r_g) ** 2).sum(1).mean() / r_g.shape[1]
        expected = entropy(y_v, click) + 0.3 * 16 * divergence + 0.7 * distance
        expected += 0.01 * (own.codes_BFE.detach().double().numpy() ** 2).sum((1, 2)).mean()
        if schedule is Schedule.JOINT:
            expected += entropy(y_g, click)
            expected += 0.01 * (taught.codes_BFE.detach().double().numpy() ** 2).sum((1, 2)).mean()
        assert network.loss(batch).item() == pytest.approx(expected, rel=1e-5)


def test_distillation_leads_no_gradient_into_the_gain_network(world):
    own, taught = torch.randn(6, 3, requires_grad=True), torch.randn(6, 3, requires_grad=True)
    (representation_distance(own, taught) + score_distance(own[:, 0], taught[:, 0], 2.0)).backward()
    assert own.grad.abs().sum() > 0
    assert taught.grad is None
    frozen, batch = built(world), world.batch(50)
    frozen.train()
    frozen.loss(batch).backward()
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in frozen.gain.parameters())
    own_parameters = [name for name, _ in frozen.named_parameters() if not name.startswith("gain.")]
    for name in own_parameters:
        assert frozen.get_parameter(name).grad.abs().sum() > 0, name


def test_taught_jointly_the_gain_network_learns_as_it_does_alone(world):
    joint, alone, batch = built(world, schedule="joint"), built(world, "elec_gain"), world.batch(50)
    joint.train()
    alone.train()
    joint.loss(batch).backward()
    alone.loss(batch).backward()
    gradients = {name: parameter.grad for name, parameter in alone.named_parameters()}
    for name, parameter in joint.gain.named_parameters():
        torch.testing.assert_close(parameter.grad, gradients[name])


def test_a_gain_network_trained_before_stays_in_evaluation(world):
    network = built(world)
    network.train()
    assert network.needs_gain
    assert network.training
    assert not any(module.training for module in network.gain.modules())
    assert built(world, schedule="joint").train().gain.training


def test_a_trained_gain_network_is_taken_over(world):
    network, gain, batch = built(world), built(world, "elec_gain"), world.batch(20)
    with torch.no_grad():
        for parameter in gain.parameters():
            parameter.add_(torch.randn_like(parameter))
    network.load_gain(gain.served_state())
    torch.testing.assert_close(network.gain(batch), gain.eval()(batch))


def test_what_is_served_holds_nothing_of_the_gain_network_and_is_the_plain_backbone(world):
    network, batch = built(world).eval(), world.batch(20)
    served = network.served_state()
    assert not any(name.startswith(("gain", "projection", "reader")) for name in served)
    plain = build(ARMS["din"], ARMS, 1, world.inputs, None, CONFIG)
    assert {name: value.shape for name, value in served.items()} == {
        name: value.shape for name, value in plain.served_state().items()
    }
    plain.load_served(served)
    torch.testing.assert_close(plain.eval()(batch), network(batch))
    other = built(world).eval()
    kept = {name: value.clone() for name, value in other.gain.state_dict().items()}
    other.load_served({name: value + 1 for name, value in served.items()})
    torch.testing.assert_close(dict(other.gain.state_dict()), kept)
    assert not torch.allclose(other(batch), network(batch))


def test_the_score_depends_on_no_vector(world):
    network, batch = built(world).eval(), world.batch(20)
    names = ("item_row_B", "user_row_B", "context_rows_BQ", "history_rows_BL")
    without = replace(batch, **{name: getattr(batch, name) * 0 for name in names})
    assert torch.equal(network(without), network(batch))
    assert not network.reads_vectors
    assert network.gain.reads_vectors
    assert not torch.allclose(network.gain(without), network.gain(batch))


def test_it_learns_eight_rows_by_heart_and_follows_its_teacher(world):
    torch.manual_seed(0)
    network, batch = built(world, schedule="joint", weight_decay=0.0), world.batch(8)
    assert isinstance(network, TaughtNetwork)
    assert isinstance(network, CtrNetwork)
    optimiser = torch.optim.Adam(network.parameters(), lr=0.03)
    for _ in range(200):
        optimiser.zero_grad()
        network.loss(batch).backward()
        optimiser.step()
    assert torch.equal(network.eval()(batch) > 0, batch.click_B > 0)
    assert network.train().loss(batch) < 0.2
