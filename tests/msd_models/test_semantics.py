"""MSD's reading of vectors against ten plain lines, the formulas of the masking, and each of its options."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch
from ctr_world import make_world, memory_table
from hypothesis import given, settings
from hypothesis import strategies as st

from msd_models.adaptors import FrozenTable
from msd_models.semantics import (
    EmptyFusion,
    FusedEvents,
    Fusion,
    Mask,
    Masking,
    SemanticReader,
    fuse,
    masking_probability,
    meet,
)
from pipeline.config import CtrModel

MASKING = Masking(mask=Mask.POPULAR, minimum=0.1, maximum=0.5, gamma=2.0, threshold=1e-3)
FUSION = Fusion(adaptor_dim=6, top_k=3, masking=MASKING)
TARGET, HAS_TARGET, FUSED, USER, HAS_USER = slice(0, 6), 6, slice(7, 13), slice(13, 19), 19
HISTORY = ("history_BL", "history_rows_BL", "is_liked_BL", "gap_BL")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return make_world(tmp_path_factory.mktemp("world"), num_contexts=2)


def reader_of(world, fusion=FUSION, reads_context=False):
    torch.manual_seed(0)
    rows = world.inputs.sampled_rows
    items = FrozenTable(world.tables.items, rows["items"])
    users = FrozenTable(world.tables.users, rows["users"])
    contexts = (FrozenTable(world.tables.contexts, rows["contexts"]), 2) if reads_context else None
    reader = SemanticReader(items, users, world.inputs.exposures_C, fusion, contexts)
    with torch.no_grad():
        for parameter in reader.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return reader


def plain_fusion(target, adapted, rows, is_open, top_k):
    """One example at a time, one position at a time."""
    made = []
    for example in range(len(target)):
        scored = []
        for position, row in enumerate(rows[example].tolist()):
            if is_open[example, position]:
                scored.append((torch.cosine_similarity(target[example], adapted[row], dim=0).item(), row))
        best = sorted(scored, reverse=True)[:top_k]
        made.append(sum((adapted[row] for _, row in best), torch.zeros_like(target[example])))
    return torch.stack(made)


@given(st.integers(1, 6), st.integers(1, 9), st.integers(0, 10**6))
@settings(max_examples=60, deadline=None)
def test_fusion_is_the_sum_of_the_k_most_similar_open_positions(top_k, length, seed):
    generator = torch.Generator().manual_seed(seed)
    adapted = torch.randn(12, 5, generator=generator)
    target = torch.randn(7, 5, generator=generator)
    rows = torch.randint(12, (7, length), generator=generator)
    is_open = torch.rand(7, length, generator=generator) < 0.6
    fused, is_any = fuse(target, adapted, rows, is_open, top_k)
    torch.testing.assert_close(fused, plain_fusion(target, adapted, rows, is_open, top_k), atol=1e-5, rtol=1e-5)
    assert is_any.flatten().tolist() == is_open.any(1).tolist()


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


def test_the_outputs_are_the_announced_number_and_every_parameter_learns_for_every_option(world):
    names = ("reads_user", "fuses_history", "has_target", "shares_item_adaptor", "shares_user_adaptor")
    for *options, reads_context in product([True, False], repeat=6):
        fusion = replace(FUSION, **dict(zip(names, options, strict=True)))
        reader = reader_of(world, fusion, reads_context)
        made = reader(world.batch(40))
        assert made.shape == (40, reader.num_outputs)
        if not (fusion.has_target or fusion.fuses_history or reads_context):
            continue
        (made * torch.randn_like(made)).sum().backward()
        # A history item without a vector is never fused, so that an adaptor of history alone has no use for it.
        learning = [name for name, _ in reader.named_parameters() if name != "history_adaptor.missing_A"]
        for name in learning:
            assert reader.get_parameter(name).grad.abs().sum() > 0, (name, options, reads_context)


def test_the_settings_of_the_stage_become_those_of_the_module():
    config = CtrModel(mask="rare", fused_events="all", empty_fusion="zero", share_item_adaptor=False, top_k=2)
    fusion = Fusion.of(config, reads_user=False)
    assert (fusion.masking.mask, fusion.fused_events, fusion.empty_fusion) == (Mask.RARE, "all", "zero")
    assert (fusion.shares_item_adaptor, fusion.shares_user_adaptor, fusion.has_target) == (False, False, True)
    assert (fusion.top_k, fusion.reads_user, fusion.fuses_history) == (2, False, True)


def test_order_and_padding_of_the_history_change_nothing(world):
    reader, batch = reader_of(world).eval(), world.batch(30)
    order = torch.randperm(8)
    moved = replace(batch, **{name: getattr(batch, name)[:, order] for name in HISTORY})
    wide = {name: torch.cat([getattr(batch, name), getattr(batch, name)[:, :4] * 0], 1) for name in HISTORY[:2]}
    wide |= {"is_liked_BL": torch.cat([batch.is_liked_BL, batch.is_liked_BL[:, :4] & False], 1)}
    torch.testing.assert_close(reader(moved), reader(batch))
    torch.testing.assert_close(reader(replace(batch, **wide)), reader(batch))


def test_one_example_at_a_time_is_the_same_as_all_at_once(world):
    reader, batch = reader_of(world, reads_context=True).eval(), world.batch(30)
    singly = [
        reader(type(batch)(**{name: value[row : row + 1] for name, value in vars(batch).items()})) for row in range(30)
    ]
    torch.testing.assert_close(torch.cat(singly), reader(batch))


def test_gradients_do_not_reach_the_frozen_tables_and_the_state_holds_no_vector(world):
    reader = reader_of(world, reads_context=True)
    tables = (reader.item_adaptor.table, reader.users, reader.contexts)
    for table in tables:
        assert not list(table.parameters())
        assert not table.take(torch.tensor([1])).requires_grad
    sizes = {value.numel() for value in reader.state_dict().values()}
    assert max(sizes) < min(len(table) * table.dim for table in tables[:2])


def test_masking_is_for_training_only_and_hides_popular_items_most(world):
    fusion = replace(FUSION, masking=replace(MASKING, minimum=0.0, maximum=1.0, gamma=50.0))
    reader, batch = reader_of(world, fusion), world.batch(60)
    popular = torch.full_like(batch.history_BL, int(world.inputs.exposures_C.argmax()))
    shown = torch.full_like(batch.history_BL, 5)
    batch = replace(batch, history_BL=popular, history_rows_BL=shown, is_liked_BL=shown > 0)
    made = reader.train()(batch)
    torch.testing.assert_close(made[:, FUSED], made[:, TARGET])
    seen = reader.eval()(batch)
    has_target = seen[:, HAS_TARGET] > 0
    assert not torch.isclose(seen[has_target, FUSED], seen[has_target, TARGET]).all(1).any()


def test_only_liked_events_are_fused_unless_all_are_wanted(world):
    batch = world.batch(60)
    nobody = replace(batch, is_liked_BL=batch.is_liked_BL & False)
    liked = reader_of(world, replace(FUSION, empty_fusion=EmptyFusion.ZERO)).eval()
    assert liked(nobody)[:, FUSED].abs().sum() == 0
    every = reader_of(world, replace(FUSION, fused_events=FusedEvents.ALL)).eval()
    torch.testing.assert_close(every(nobody), every(batch))
    assert not torch.allclose(every(batch), liked(batch))


def test_a_target_or_history_without_vectors_falls_back_as_the_option_says(world):
    batch = world.batch(60)
    nothing = replace(batch, history_rows_BL=torch.zeros_like(batch.history_BL))
    reader = reader_of(world).eval()
    made = reader(nothing)
    torch.testing.assert_close(made[:, FUSED], made[:, TARGET])
    zero = reader_of(world, replace(FUSION, empty_fusion=EmptyFusion.ZERO)).eval()
    assert zero(nothing)[:, FUSED].abs().sum() == 0
    made = reader(replace(batch, item_row_B=torch.zeros_like(batch.item_row_B)))
    torch.testing.assert_close(made[:, TARGET], reader.item_adaptor.missing_A.expand(60, 6))
    torch.testing.assert_close(made[:, FUSED], made[:, TARGET])
    assert made[:, HAS_TARGET].sum() == 0


def test_shared_adaptors_adapt_alike_and_own_ones_do_not(world):
    """Where the history is the target alone, k = 1 picks it: e_item is then e' of the adaptor that reads history."""
    batch = world.batch(60)
    own_rows = torch.zeros_like(batch.history_rows_BL)
    own_rows[:, 0] = batch.item_row_B
    batch = replace(batch, history_rows_BL=own_rows, is_liked_BL=own_rows >= 0)
    made = reader_of(world).eval()(batch)
    torch.testing.assert_close(made[:, FUSED], made[:, TARGET])
    made = reader_of(world, replace(FUSION, shares_item_adaptor=False)).eval()(batch)
    has_target = made[:, HAS_TARGET] > 0
    assert not torch.isclose(made[has_target, FUSED], made[has_target, TARGET]).all(1).any()
    shared = reader_of(world, replace(FUSION, shares_user_adaptor=True)).eval()
    assert shared.user_adaptor is None
    missing = shared(replace(batch, user_row_B=batch.user_row_B * 0))
    torch.testing.assert_close(missing[:, USER], shared.item_adaptor.missing_A.expand(60, 6))
    assert missing[:, HAS_USER].sum() == 0


def test_texts_of_the_event_meet_the_target(world):
    reader, batch = reader_of(world, reads_context=True).eval(), world.batch(50)
    made = reader(batch)
    target, contexts = made[:, TARGET], made[:, 20:]
    rows = batch.context_rows_BQ
    assert 0 < (rows > 0).sum() < rows.numel()
    adapted, place, has = reader.item_adaptor(rows, reader.contexts)
    for example in range(50):
        for column in range(2):
            mine = adapted[place[example, column]]
            own = contexts[example, 6 * column : 6 * column + 6]
            torch.testing.assert_close(own, mine)
            product = contexts[example, 12 + 6 * column : 12 + 6 * column + 6]
            torch.testing.assert_close(product, mine * target[example])
            both = has[example, column] and made[example, HAS_TARGET] > 0
            cosine = torch.cosine_similarity(mine, target[example], dim=0) if both else torch.zeros(())
            torch.testing.assert_close(contexts[example, 24 + column], cosine)
            assert contexts[example, 26 + column] == has[example, column]


def test_a_missing_text_has_no_cosine_and_its_gradient_is_finite():
    contexts = torch.zeros(2, 1, 3, requires_grad=True)
    target = torch.zeros(2, 3, requires_grad=True)
    made = meet(contexts, target, torch.tensor([[True], [False]]), torch.tensor([False, True]))
    made.sum().backward()
    assert torch.isfinite(contexts.grad).all()
    assert torch.isfinite(target.grad).all()
    assert made[:, 6].tolist() == [0.0, 0.0]


def test_a_reader_of_no_rows_at_all_still_answers(world):
    empty = FrozenTable(memory_table(np.zeros((0, 12))), np.zeros(0, dtype=np.int64))
    reader = SemanticReader(empty, empty, world.inputs.exposures_C, FUSION)
    batch = world.batch(5)
    nothing = {name: getattr(batch, name) * 0 for name in ("item_row_B", "user_row_B", "history_rows_BL")}
    assert torch.isfinite(reader(replace(batch, **nothing))).all()
