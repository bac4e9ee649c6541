"""A step's gradients: of stored states, of parts and of gradient caching, against one plain backward pass."""

from dataclasses import replace

import pytest
import torch
from cut_models import CONFIG, cut, make_model, plain, stir

from msd_models.stored_states import store_states
from msd_models.token_batches import pad
from msd_models.tuning_step import LiveVectors
from msd_models.upper_layers import with_upper_adapters

NUM_TEXTS = 14
STEP = torch.tensor([11, 3, 7, 0, 5, 13, 9])


def texts():
    generator = torch.Generator().manual_seed(3)
    lengths = torch.randint(3, 20, (NUM_TEXTS,), generator=generator).tolist()
    return [torch.randint(1, 32, (length,), generator=generator).tolist() for length in lengths]


class ComputedStates:
    """States that are not stored: the lower layers run whenever they are read."""

    def __init__(self, lower, ids):
        self.lower, self.ids = lower, ids
        self.lengths_N = torch.tensor([len(row) for row in ids])

    def read(self, texts_B):
        ids_BT, _ = pad([self.ids[text] for text in texts_B.tolist()], 0)
        return self.lower(ids_BT).clone(), self.lengths_N[texts_B]


def a_loss(vectors_UD):
    """Of all vectors together, so that no text's gradient is its own alone."""
    cosine_UU = torch.nn.functional.cosine_similarity(vectors_UD.unsqueeze(0), vectors_UD.unsqueeze(1), dim=-1)
    return torch.logsumexp(cosine_UU, dim=1).mean() + vectors_UD.tanh().mean()


def gradients(model):
    return {name: one.grad.clone() for name, one in model.named_parameters() if one.requires_grad}


@pytest.mark.parametrize("batch_tokens", [1_000_000, 40, 1])
@pytest.mark.parametrize("is_stored", [True, False])
@pytest.mark.parametrize(("adapted_layers", "pooling"), [(1, "last"), (2, "last"), (1, "mean")])
def test_the_gradient_is_that_of_a_plain_backward_pass(tmp_path, adapted_layers, pooling, is_stored, batch_tokens):
    model = stir(with_upper_adapters(make_model(), replace(CONFIG, adapted_layers=adapted_layers)))
    decoder, lower, upper = cut(model, adapted_layers, pooling)
    ids = texts()
    states = store_states(ids, lower, tmp_path, 60) if is_stored else ComputedStates(lower, ids)
    loss = LiveVectors(upper, states, batch_tokens).backward(STEP, a_loss)
    found = gradients(model)
    model.zero_grad()
    wanted_loss = a_loss(plain(decoder, pooling, [ids[text] for text in STEP.tolist()]))
    wanted_loss.backward()
    torch.testing.assert_close(loss, wanted_loss.detach(), atol=1e-5, rtol=1e-5)
    for name, gradient in gradients(model).items():
        largest = float(gradient.abs().max())
        assert largest > 0, name
        torch.testing.assert_close(found[name], gradient, atol=1e-4 * largest, rtol=1e-4)
    assert all(one.grad is None for one in model.parameters() if not one.requires_grad)


@pytest.mark.parametrize("batch_tokens", [40, 60, 1_000_000])
def test_no_more_tokens_than_the_budget_hold_a_graph(tmp_path, batch_tokens):
    model = stir(with_upper_adapters(make_model(), CONFIG))
    _, lower, upper = cut(model, 1, "last")
    states = store_states(texts(), lower, tmp_path, 60)
    held = []

    def watched(states_BTD, lengths_B):
        if torch.is_grad_enabled():
            held.append(states_BTD.shape[0] * states_BTD.shape[1])
        return upper(states_BTD, lengths_B)

    every = torch.arange(NUM_TEXTS)
    LiveVectors(watched, states, batch_tokens).backward(every, a_loss)
    assert max(held) <= batch_tokens
    if batch_tokens < int(states.lengths_N.sum()):
        assert len(held) > 1, "parts hold their graphs one after the other"


def test_vectors_come_in_the_order_they_are_asked_for(tmp_path):
    model = stir(with_upper_adapters(make_model(), CONFIG))
    _, lower, upper = cut(model, 1, "last")
    live = LiveVectors(upper, store_states(texts(), lower, tmp_path, 60), 30)
    every = live.encode(torch.arange(NUM_TEXTS))
    torch.testing.assert_close(live.encode(STEP), every[STEP], atol=1e-5, rtol=1e-5)
    assert not every.requires_grad


def test_adapters_alone_overfit_eight_texts(tmp_path):
    model = with_upper_adapters(make_model(), CONFIG)
    _, lower, upper = cut(model, 1, "last")
    live = LiveVectors(upper, store_states(texts(), lower, tmp_path, 60), 40)
    optimiser = torch.optim.Adam([one for one in model.parameters() if one.requires_grad], lr=0.01)
    readout_D = torch.randn(24, generator=torch.Generator().manual_seed(2))
    click_B = torch.tensor([1.0, 0, 0, 1, 0, 1, 1, 0])
    losses = []
    for _ in range(60):
        optimiser.zero_grad()
        losses.append(
            float(
                live.backward(
                    torch.arange(8),
                    lambda v_BD: torch.nn.functional.binary_cross_entropy_with_logits(v_BD @ readout_D, click_B),
                )
            )
        )
        optimiser.step()
    assert losses[-1] < 0.1 * losses[0]
