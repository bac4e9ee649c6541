"""KAR's mixture of experts against a plain loop."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from ctr_world import make_world

from msd_models.adaptors import FrozenTable
from msd_models.kar import KnowledgeReader
from pipeline.config import CtrModel

CONFIG = CtrModel(shared_experts=2, own_experts=3, adaptor_dim=5, expert_width=16)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return make_world(tmp_path_factory.mktemp("world"))


def reader_of(world, **options):
    torch.manual_seed(0)
    items = FrozenTable(world.tables.items, world.inputs.sampled_rows["items"])
    users = FrozenTable(world.tables.users, world.inputs.sampled_rows["users"])
    return KnowledgeReader(items, users, CONFIG, **options)


def test_a_side_is_the_gated_sum_of_shared_and_own_experts(world):
    reader, batch = reader_of(world), world.batch(40)
    made = reader(batch)
    sides = ((reader.item_side, batch.item_row_B, 0), (reader.user_side, batch.user_row_B, 6))
    for side, rows, first in sides:
        for example, row in enumerate(rows.tolist()):
            has = row > 0 and bool(side.table.has(torch.tensor(row)))
            assert made[example, first + 5] == has
            expected = side.missing_A
            if has:
                vector = (side.table.take(torch.tensor([row]))[0] - side.table.mean_D) * side.table.scale_D
                experts = [*reader.shared, *side.own]
                assert len(experts) == 5
                gate = np.exp([logit.item() for logit in side.gate(vector)])
                gate = gate / gate.sum()
                expected = sum(float(share) * expert(vector) for share, expert in zip(gate, experts, strict=True))
            torch.testing.assert_close(made[example, first : first + 5], expected, atol=1e-5, rtol=1e-4)


def test_the_outputs_are_the_announced_number_and_the_user_side_can_be_left_out(world):
    for reads_user in (True, False):
        reader = reader_of(world, reads_user=reads_user)
        assert reader(world.batch(7)).shape == (7, reader.num_outputs)
    assert reader.num_outputs == 6


def test_gradients_reach_every_expert_and_no_vector(world):
    reader = reader_of(world)
    made = reader(world.batch(60))
    (made * torch.randn_like(made)).sum().backward()
    for name, parameter in reader.named_parameters():
        assert parameter.grad.abs().sum() > 0, name
    assert not list(reader.item_side.table.parameters())
    assert sum(name.startswith("shared.0.") for name in reader.state_dict()) == 4
    assert not any("side.shared" in name for name in reader.state_dict())


def test_it_learns_eight_rows_by_heart_and_is_the_same_when_loaded(world):
    reader, batch = reader_of(world), world.batch(8)
    head = torch.nn.Linear(reader.num_outputs, 1)
    batch = replace(batch, item_row_B=torch.arange(1, 9), click_B=torch.tensor([0.0, 1] * 4))
    optimiser = torch.optim.Adam([*reader.parameters(), *head.parameters()], lr=0.02)
    for _ in range(150):
        logit = head(reader(batch)).squeeze(1)
        loss = torch.nn.functional.binary_cross_entropy_with_logits(logit, batch.click_B)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert loss < 0.1
    loaded = reader_of(world)
    loaded.load_state_dict(reader.state_dict())
    torch.testing.assert_close(loaded(batch), reader(batch))
