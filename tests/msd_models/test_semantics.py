"""MSD's reading of vectors against ten plain lines, and the formulas of the masking."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from msd_models.ctr_inputs import Batch
from msd_models.semantics import FrozenTable, Fusion, Mask, Masking, SemanticReader, fuse, masking_probability
from msd_models.vector_tables import VectorTable

MASKING = Masking(mask=Mask.POPULAR, minimum=0.1, maximum=0.5, gamma=2.0, threshold=1e-3)
FUSION = Fusion(adaptor_dim=6, top_k=3, masking=MASKING)


def plain_fusion(target, adapted, rows, is_open, top_k):
    """One example at a time, one position at a time."""
    made = []
    for example in range(len(target)):
        scored = []
        for position, row in enumerate(rows[example].tolist()):
            if is_open[example, position]:
                scored.append((torch.cosine_similarity(target[example], adapted[row], dim=0).item(), row))
        best = sorted(scored, reverse=True)[:top_k]
        made.append(sum(adapted[row] for _, row in best) if best else target[example])
    return torch.stack(made)


@given(st.integers(1, 6), st.integers(1, 9), st.integers(0, 10**6))
@settings(max_examples=60, deadline=None)
def test_fusion_is_the_sum_of_the_k_most_similar_open_positions(top_k, length, seed):
    generator = torch.Generator().manual_seed(seed)
    adapted = torch.randn(12, 5, generator=generator)
    target = torch.randn(7, 5, generator=generator)
    rows = torch.randint(12, (7, length), generator=generator)
    is_open = torch.rand(7, length, generator=generator) < 0.6
    expected = plain_fusion(target, adapted, rows, is_open, top_k)
    torch.testing.assert_close(fuse(target, adapted, rows, is_open, top_k), expected, atol=1e-5, rtol=1e-5)


def test_masking_follows_the_formulas():
    exposures = torch.tensor([0.0, 0.0, 1.0, 10.0, 500.0, 10_000.0])
    popular = masking_probability(exposures, MASKING)
    ratio = np.log1p(exposures.numpy()) / np.log1p(10_000.0)
    np.testing.assert_allclose(popular.numpy(), 0.1 + 0.4 * ratio**2, rtol=1e-5)
    rare = masking_probability(exposures, replace(MASKING, mask=Mask.RARE))
    torch.testing.assert_close(popular + rare, torch.full((6,), 0.6))
    share = exposures.numpy() / exposures.numpy().sum()
    word2vec = masking_probability(exposures, replace(MASKING, mask=Mask.WORD2VEC)).numpy()
    np.testing.assert_allclose(word2vec[2:], np.maximum(0, 1 - np.sqrt(1e-3 / share[2:])), atol=1e-6)
    assert word2vec[:2].tolist() == [0.0, 0.0]
    assert masking_probability(exposures, replace(MASKING, mask=Mask.NONE)).sum() == 0
    assert torch.isfinite(masking_probability(torch.zeros(4), MASKING)).all()


def reader_of(fusion=FUSION, num_items=20, has_vector=True):
    torch.manual_seed(0)
    random = np.random.default_rng(0)

    def table(count):
        flags = np.full(count, True) if has_vector else random.random(count) < 0.7
        vectors = 5 + 3 * random.standard_normal((count, 10)).astype(np.float32) * flags[:, None]
        return VectorTable(vectors_ND=vectors, has_vector_N=flags, space_id="s")

    exposures = torch.arange(num_items + 1).float()
    items = FrozenTable(table(num_items), torch.arange(num_items + 1))
    users = FrozenTable(table(15), torch.arange(16))
    return SemanticReader(items, users, exposures, fusion)


def batch_of(size=30, length=7, num_items=20):
    generator = torch.Generator().manual_seed(3)
    history = torch.randint(num_items + 1, (size, length), generator=generator, dtype=torch.int32)
    return Batch(
        codes_BF=torch.zeros(size, 1, dtype=torch.int32),
        history_BL=history,
        is_liked_BL=history > 0,
        history_rows_BL=history,
        item_row_B=torch.randint(num_items + 1, (size,), generator=generator, dtype=torch.int32),
        user_row_B=torch.randint(16, (size,), generator=generator, dtype=torch.int32),
        click_B=torch.zeros(size),
    )


def test_the_outputs_are_the_announced_number_for_every_option():
    for reads_user in (True, False):
        for fuses_history in (True, False):
            reader = reader_of(replace(FUSION, reads_user=reads_user, fuses_history=fuses_history))
            assert reader(batch_of()).shape == (30, reader.num_outputs)


def test_order_and_padding_of_the_history_change_nothing():
    reader, batch = reader_of().eval(), batch_of()
    order, nothing = torch.randperm(7), torch.zeros(30, 4, dtype=torch.int32)
    history = batch.history_BL[:, order]
    moved = replace(batch, history_BL=history, history_rows_BL=history, is_liked_BL=history > 0)
    history = torch.cat([batch.history_BL, nothing], 1)
    padded = replace(batch, history_BL=history, history_rows_BL=history, is_liked_BL=history > 0)
    torch.testing.assert_close(reader(moved), reader(batch))
    torch.testing.assert_close(reader(padded), reader(batch))


@pytest.mark.parametrize("has_vector", [True, False])
def test_adapting_the_whole_table_is_adapting_the_distinct_rows(has_vector):
    reader, batch = reader_of(has_vector=has_vector).eval(), batch_of()
    singly = [reader(Batch(**{name: value[row : row + 1] for name, value in vars(batch).items()})) for row in range(30)]
    torch.testing.assert_close(torch.cat(singly), reader(batch))


def test_vectors_are_standardised_over_the_training_rows():
    random = np.random.default_rng(0)
    vectors = random.normal(7, 3, (50, 4)).astype(np.float32)
    vectors[:, 3] = 1.0
    table = FrozenTable(
        VectorTable(vectors_ND=vectors, has_vector_N=np.full(50, True), space_id=""),
        torch.tensor([0, *range(1, 41), 1, 1]),
    )
    standard = (vectors[:40] - table.mean_D.numpy()) * table.scale_D.numpy()
    np.testing.assert_allclose(standard.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(standard.std(0), [1, 1, 1, 0], atol=1e-5)


def test_gradients_reach_the_adaptors_and_not_the_frozen_tables():
    reader = reader_of(has_vector=False)
    made = reader(batch_of())
    (made * torch.randn_like(made)).sum().backward()
    for name, parameter in reader.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name
    for table in (reader.item_adaptor.table, reader.user_adaptor.table):
        assert not table.vectors_RD.requires_grad
        assert not list(table.parameters())
    assert not any("vectors_RD" in name for name in reader.state_dict())


def test_masking_is_for_training_only_and_hides_popular_items_most():
    fusion = replace(FUSION, masking=replace(MASKING, minimum=0.0, maximum=1.0, gamma=50.0))
    reader, batch = reader_of(fusion), batch_of()
    popular = torch.full_like(batch.history_BL, 20)
    batch = replace(batch, history_BL=popular, history_rows_BL=popular, is_liked_BL=popular > 0)
    fused = slice(7, 13)
    target = reader(batch)[:, :6]
    torch.testing.assert_close(reader.train()(batch)[:, fused], target)
    assert not torch.allclose(reader.eval()(batch)[batch.item_row_B > 0, fused], target[batch.item_row_B > 0])


def test_a_target_or_history_without_vectors_falls_back_to_the_targets_own():
    reader, batch = reader_of().eval(), batch_of()
    nothing = torch.zeros_like(batch.history_BL)
    made = reader(replace(batch, history_rows_BL=nothing))
    torch.testing.assert_close(made[:, 7:13], made[:, :6])
    made = reader(replace(batch, item_row_B=torch.zeros_like(batch.item_row_B)))
    torch.testing.assert_close(made[:, :6], reader.item_adaptor.missing_A.expand(30, 6))
    torch.testing.assert_close(made[:, 7:13], made[:, :6])
    assert made[:, 6].sum() == 0
