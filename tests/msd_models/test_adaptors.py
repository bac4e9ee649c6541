"""Adaptors and the tables they read: distinct rows, moments, missing vectors, and what gradients reach."""

import numpy as np
import pytest
import torch
from ctr_world import memory_table
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from msd_models import adaptors
from msd_models.adaptors import Adaptor, FrozenTable, distinct_rows


class LiveTable(nn.Module):
    """A table whose vectors are trained."""

    def __init__(self, vectors_ND):
        super().__init__()
        self.vectors_ND = nn.Parameter(vectors_ND)
        self.mean_D, self.scale_D = torch.zeros(vectors_ND.shape[1]), torch.ones(vectors_ND.shape[1])
        self.taken = []

    @property
    def dim(self):
        return self.vectors_ND.shape[1]

    def __len__(self):
        return len(self.vectors_ND)

    def take(self, rows_U):
        self.taken.append(rows_U.tolist())
        return self.vectors_ND[rows_U - 1]

    def has(self, rows):
        return rows > 0


def vectors_of(count, dim=4, seed=0):
    return np.random.default_rng(seed).normal(7, 3, (count, dim)).astype(np.float32)


@given(st.lists(st.integers(0, 50), max_size=40), st.sampled_from([50, 5000]))
@settings(max_examples=80, deadline=None)
def test_distinct_rows_are_the_named_ones_in_order_by_marks_as_by_sorting(rows, num_rows):
    named = torch.tensor(rows, dtype=torch.int64)
    rows_U, place = distinct_rows(named, num_rows)
    assert rows_U.tolist() == sorted(set(rows) - {0})
    assert torch.cat([torch.zeros(1, dtype=torch.int64), rows_U])[place].tolist() == rows


def test_distinct_rows_keep_the_shape_of_what_was_asked():
    for num_rows in (9, 10_000):
        assert distinct_rows(torch.tensor([[3, 0, 9], [9, 9, 1]]), num_rows)[1].tolist() == [[2, 0, 3], [3, 3, 1]]


def test_vectors_are_standardised_over_the_sampled_rows():
    vectors = vectors_of(50)
    vectors[:, 3] = 1.0
    table = FrozenTable(memory_table(vectors), np.arange(1, 41))
    standard = (vectors[:40] - table.mean_D.numpy()) * table.scale_D.numpy()
    np.testing.assert_allclose(standard.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(standard.std(0), [1, 1, 1, 0], atol=1e-5)


def test_moments_of_many_rows_are_those_of_all_pieces_together():
    vectors = vectors_of(2 * adaptors.PIECE_ROWS + 77)
    vectors[: adaptors.PIECE_ROWS] += 40
    table = FrozenTable(memory_table(vectors), np.arange(1, len(vectors) + 1))
    np.testing.assert_allclose(table.mean_D.numpy(), vectors.mean(0, dtype=np.float64), rtol=1e-6)
    np.testing.assert_allclose(1 / table.scale_D.numpy(), vectors.std(0, dtype=np.float64), rtol=1e-6)


def test_rows_without_a_vector_have_no_part_in_the_moments():
    vectors, flags = vectors_of(50), np.arange(50) % 2 == 0
    table = FrozenTable(memory_table(vectors, flags), np.arange(1, 51))
    np.testing.assert_allclose(table.mean_D.numpy(), vectors[flags].mean(0), rtol=1e-4)
    nothing = FrozenTable(memory_table(vectors), np.zeros(0, dtype=np.int64))
    assert (nothing.mean_D.tolist(), nothing.scale_D.tolist()) == ([0.0] * 4, [1.0] * 4)


def test_e_prime_is_the_mlp_of_the_standardised_vector():
    vectors, flags = vectors_of(12), np.arange(12) != 4
    table = FrozenTable(memory_table(vectors, flags), np.arange(1, 13))
    torch.manual_seed(0)
    adaptor = Adaptor(table, 6)
    with torch.no_grad():
        adaptor.missing_A.normal_()
    rows = torch.tensor([[3, 0, 5], [12, 3, 3]])
    adapted, place, has_vector = adaptor(rows)
    for row, got, has in zip(rows.flatten(), adapted[place].flatten(0, 1), has_vector.flatten(), strict=True):
        is_there = row > 0 and bool(flags[row - 1])
        assert has == is_there
        standard = (torch.from_numpy(vectors[row - 1]) - table.mean_D) * table.scale_D
        expected = adaptor.last(torch.relu(adaptor.first(standard))) if is_there else adaptor.missing_A
        torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)


def test_a_table_that_is_not_held_is_read_row_by_row_to_the_same_numbers(tmp_path):
    """A memory map of more bytes than are held stays outside: neither state nor memory of the module."""
    vectors = vectors_of(300_000, dim=64)
    np.save(tmp_path / "vectors.npy", vectors)
    mapped = memory_table(vectors[:1])
    mapped = type(mapped)(
        vectors_ND=np.load(tmp_path / "vectors.npy", mmap_mode="r"),
        has_vector_N=np.full(len(vectors), True),
        space_id="memory",
    )
    assert vectors.nbytes > adaptors.HELD_BYTES
    table, rows = FrozenTable(mapped, np.arange(1, 100)), torch.tensor([1, 7, 300_000])
    torch.testing.assert_close(table.take(rows), torch.from_numpy(vectors[rows.numpy() - 1]))
    assert table._held_ND is None
    assert set(table.state_dict()) == {"mean_D", "scale_D"}
    small = FrozenTable(memory_table(vectors[:10]), np.arange(1, 11))
    torch.testing.assert_close(small.take(torch.tensor([2, 10])), torch.from_numpy(vectors[[1, 9]]))
    assert set(small.state_dict()) == {"mean_D", "scale_D"}


def test_gradients_reach_the_adaptor_and_not_a_frozen_table():
    adaptor = Adaptor(FrozenTable(memory_table(vectors_of(9)), np.arange(1, 10)), 5)
    adapted, _, _ = adaptor(torch.tensor([0, 1, 2, 8]))
    (adapted * torch.randn_like(adapted)).sum().backward()
    for name, parameter in adaptor.named_parameters():
        assert parameter.grad.abs().sum() > 0, name
    assert not list(adaptor.table.parameters())
    assert not adaptor.table.take(torch.tensor([1])).requires_grad


def test_a_live_table_gets_gradients_and_is_asked_for_distinct_rows_once():
    table = LiveTable(torch.randn(9, 4))
    adaptor = Adaptor(table, 5)
    adapted, place, _ = adaptor(torch.tensor([4, 2, 4, 0, 2]))
    nn.functional.embedding(place, adapted).square().sum().backward()
    assert table.taken == [[2, 4]]
    assert table.vectors_ND.grad.abs().sum(1).nonzero().flatten().tolist() == [1, 3]


@pytest.mark.parametrize("steps", [200])
def test_an_adaptor_learns_eight_rows_by_heart_and_is_the_same_when_loaded(steps):
    torch.manual_seed(0)
    table = FrozenTable(memory_table(vectors_of(8)), np.arange(1, 9))
    adaptor, rows, wanted = Adaptor(table, 8), torch.arange(1, 9), torch.randn(8, 8)
    optimiser = torch.optim.Adam(adaptor.parameters(), lr=0.03)
    for _ in range(steps):
        adapted, place, _ = adaptor(rows)
        loss = nn.functional.mse_loss(adapted[place], wanted)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert loss < 0.02
    loaded = Adaptor(FrozenTable(memory_table(vectors_of(8)), np.zeros(0, dtype=np.int64)), 8)
    loaded.load_state_dict(adaptor.state_dict())
    torch.testing.assert_close(loaded(rows)[0], adaptor(rows)[0])
