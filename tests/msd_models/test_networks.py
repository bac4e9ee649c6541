"""Networks as arms declare them: every combination is built, trains, and is the same again from the same seed."""

from dataclasses import replace
from itertools import product

import pytest
import torch
from ctr_world import make_world, memory_table

from msd_models.arms import Arm, Backbone, Injection, Module
from msd_models.arms_file import read_arms
from msd_models.networks import arm_seed, build
from msd_models.vector_tables import VectorSource
from pipeline.config import CtrModel
from pipeline.errors import SpaceMismatch

ARMS = read_arms()
CONFIG = CtrModel(hidden=(12, 8), embedding_dim=4, adaptor_dim=6, dropout=0.0)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return make_world(tmp_path_factory.mktemp("world"))


def built(world, arm, seed=1, config=CONFIG):
    return build(ARMS[arm] if isinstance(arm, str) else arm, ARMS, seed, world.inputs, world.vectors, config)


@pytest.mark.parametrize("backbone", list(Backbone))
def test_every_backbone_goes_with_every_module_and_injection(world, backbone):
    batch = world.batch(40)
    for module, injection in product((Module.MSD, Module.KAR), Injection):
        arm = Arm(name="x", backbone=backbone, module=module, vectors=VectorSource.STUDENT, injection=injection)
        network = built(world, arm)
        assert (network.high is not None) == (injection is Injection.HIGH)
        loss = network.loss(batch)
        loss.backward()
        assert torch.isfinite(loss)
        for name, parameter in network.named_parameters():
            assert parameter.grad is not None, (module, injection, name)
        taught = Arm(name="y", backbone=backbone, learns_from="x")
        pupil = build(taught, {"x": arm}, 1, world.inputs, world.vectors, CONFIG)
        assert torch.isfinite(pupil.loss(batch))


@pytest.mark.parametrize("arm", list(ARMS))
def test_the_same_arm_and_seed_are_the_same_network_whatever_was_drawn_before(world, arm):
    torch.manual_seed(5)
    first = built(world, arm)
    state = torch.get_rng_state()
    again = built(world, arm)
    assert torch.equal(torch.get_rng_state(), state)
    other = built(world, arm, seed=2)
    batch = world.batch(30)
    torch.testing.assert_close(dict(first.state_dict()), dict(again.state_dict()), atol=0, rtol=0)
    assert torch.equal(first.eval()(batch), again.eval()(batch))
    assert not torch.equal(first(batch), other.eval()(batch))


def test_seeds_of_arms_differ():
    seeds = {arm_seed(arm, seed) for arm in ARMS for seed in range(20)}
    assert len(seeds) == 20 * len(ARMS)


def test_the_output_layer_reads_what_lies_below_it(world):
    network, batch = built(world, "elec_gain").eval(), world.batch(20)
    output, extra = network.read(batch), network.reader(batch)
    reading = network.backbone.represent(batch, None)
    high = torch.relu(network.high(torch.cat([reading.high_BH, extra], dim=1)))
    torch.testing.assert_close(output.high_BH, high)
    torch.testing.assert_close(output.logit_B, (high @ network.head.weight.T + network.head.bias).squeeze(1))


def test_an_arms_own_settings_make_its_network_and_its_teachers_make_the_teachers(world):
    arms = ARMS | {
        "elec_gain": replace(ARMS["elec_gain"], settings={"hidden": (20,)}),
        "elec_vanilla": replace(ARMS["elec_vanilla"], settings={"embedding_dim": 2, "temperature": 4.0}),
    }
    network = build(arms["elec_vanilla"], arms, 1, world.inputs, world.vectors, CONFIG)
    assert network.backbone.embeddings.table.embedding_dim == 2
    assert network.gain.backbone.embeddings.table.embedding_dim == 4
    assert (network.backbone.num_high, network.gain.backbone.num_high) == (8, 20)
    assert network.lesson.temperature == 4.0


def test_a_network_reads_vectors_exactly_where_its_arm_does(world):
    batch = world.batch(30)
    names = ("item_row_B", "user_row_B", "context_rows_BQ", "history_rows_BL")
    without = replace(batch, **{name: getattr(batch, name) * 0 for name in names})
    for arm in ARMS:
        network = built(world, arm).eval()
        assert network.reads_vectors == (ARMS[arm].vectors is not None)
        assert torch.equal(network(without), network(batch)) == (not network.reads_vectors), arm


@pytest.mark.parametrize(
    ("change", "column"),
    [
        ({"reads_user": False}, "user_row_B"),
        ({"fuses_history": False}, "history_rows_BL"),
        ({"reads_context": False}, "context_rows_BQ"),
    ],
)
def test_what_an_arm_leaves_out_is_not_read(world, change, column):
    batch = world.batch(30)
    without = replace(batch, **{column: getattr(batch, column) * 0})
    whole, part = built(world, "msd").eval(), built(world, replace(ARMS["msd"], **change)).eval()
    assert not torch.equal(whole(without), whole(batch))
    assert torch.equal(part(without), part(batch))


def test_placebos_are_one_architecture_with_the_student(world):
    shapes = [
        {name: value.shape for name, value in built(world, arm).served_state().items()}
        for arm in ("random_vectors", "shuffled_vectors", "raw_text", "msd_frozen", "msd")
    ]
    assert all(one == shapes[0] for one in shapes)


def test_texts_of_another_length_than_items_are_refused(world):
    other = replace(world.tables, contexts=memory_table(torch.ones(3, 5).numpy()))
    vectors = replace(world.vectors, tables=dict.fromkeys(world.vectors.tables, other))
    with pytest.raises(SpaceMismatch, match="vectors of 5 numbers"):
        build(ARMS["msd"], ARMS, 1, world.inputs, vectors, CONFIG)


def test_a_source_without_texts_reads_none(tmp_path):
    world = make_world(tmp_path, num_contexts=0)
    network = built(world, "msd")
    assert network.reader.num_contexts == 0
    assert torch.isfinite(network.loss(world.batch(20)))


@pytest.mark.parametrize("arm", ["msd", "kar", "elec_gain"])
def test_a_semantic_network_learns_eight_rows_by_heart_and_is_the_same_when_loaded(world, arm):
    torch.manual_seed(0)
    config = replace(CONFIG, mask="none", weight_decay=0.0)
    network, batch = built(world, arm, config=config), world.batch(8)
    optimiser = torch.optim.Adam(network.parameters(), lr=0.03)
    for _ in range(150):
        optimiser.zero_grad()
        network.loss(batch).backward()
        optimiser.step()
    assert network.loss(batch) < 0.05
    loaded = built(world, arm, seed=2, config=config)
    loaded.load_served(network.served_state())
    torch.testing.assert_close(loaded.eval()(batch), network.eval()(batch))


@pytest.mark.parametrize("arm", ["msd", "kar", "elec_gain", "elec_vanilla"])
def test_lower_precision_gives_about_the_same(world, arm):
    network, batch = built(world, arm, config=replace(CONFIG, mask="none")), world.batch(64)
    full = network.loss(batch)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = network.loss(batch)
    half.backward()
    torch.testing.assert_close(half, full, atol=0.03, rtol=0.03)


@pytest.mark.gpu
@pytest.mark.parametrize("arm", ["din", "deepfm", "dcnv2", "mlp", "msd", "kar", "elec_gain", "elec_vanilla"])
def test_a_gpu_gives_the_processors_logits_and_loss(world, arm):
    network, batch = built(world, arm, config=replace(CONFIG, mask="none")), world.batch(60)
    there, batch_there = built(world, arm, config=replace(CONFIG, mask="none")).cuda(), batch.to(torch.device("cuda"))
    network.loss(batch).backward()
    there.loss(batch_there).backward()
    gradient, gradient_there = (one.backbone.embeddings.table.weight.grad for one in (network, there))
    torch.testing.assert_close(gradient_there.cpu(), gradient, atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(there.eval()(batch_there).cpu(), network.eval()(batch), atol=1e-4, rtol=1e-3)
    there.load_served(network.served_state())
    torch.testing.assert_close(there(batch_there).cpu(), network(batch), atol=1e-4, rtol=1e-3)


def test_arms_that_differ_by_their_vectors_alone_start_from_the_same_weights(world):
    one, two = (built(world, arm, seed=3).state_dict() for arm in ("msd", "msd_frozen"))
    assert one.keys() == two.keys()
    for name, weight in one.items():
        torch.testing.assert_close(two[name], weight, rtol=0, atol=0)
