"""DIN's attention in one operation is the plain one, its value and every gradient."""

import pytest
import torch

from msd_models import attention_kernel
from msd_models.attention import Attention, Dice
from msd_models.attention_kernel import DinAttention
from msd_models.field_embeddings import Events

SIZES = [(1, 2), (7, 30), (3, 20)]
SEVERAL_PIECES = (900, 2 * attention_kernel.PIECE_EVENTS + 77)


def drawn(num_rows, num_events):
    generator = torch.Generator().manual_seed(num_events)

    def numbers(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64).requires_grad_()

    example_P = torch.randint(num_rows, (num_events,), generator=generator).sort().values
    weights = (numbers(3, 4), numbers(3, 4), numbers(3), numbers(3), numbers(1))
    return (numbers(num_events, 4), numbers(num_rows, 4), numbers(num_rows, 3)), example_P, weights


@pytest.mark.parametrize(("num_rows", "num_events"), SIZES)
def test_the_gradient_is_that_of_finite_differences(num_rows, num_events):
    read, example_P, weights = drawn(num_rows, num_events)

    def pooled(events, target, of_target, *weights):
        return DinAttention.apply(events, target, of_target, example_P, *weights)[0]

    assert torch.autograd.gradcheck(pooled, (*read, *weights))


@pytest.mark.parametrize(("num_rows", "num_events"), [*SIZES, SEVERAL_PIECES])
def test_value_and_gradient_are_those_of_the_plain_lines(num_rows, num_events):
    (events, target, of_target), example_P, (a, c, alpha, w, bias) = drawn(num_rows, num_events)
    pooled, mean, variance = DinAttention.apply(events, target, of_target, example_P, a, c, alpha, w, bias)
    hidden = events @ a.T + (events * target[example_P]) @ c.T + of_target[example_P]
    torch.testing.assert_close(mean, hidden.mean(0))
    torch.testing.assert_close(variance, hidden.var(0, correction=0))
    gate = torch.sigmoid((hidden - hidden.mean(0)) / (hidden.var(0, correction=0) + attention_kernel.EPSILON).sqrt())
    weight = (hidden * (alpha + gate * (1 - alpha))) @ w + bias
    plain = torch.zeros_like(target).index_put((example_P,), weight.unsqueeze(1) * events, accumulate=True)
    torch.testing.assert_close(pooled, plain)
    given = torch.autograd.grad(pooled.square().sum(), (events, target, of_target, a, c, alpha, w, bias))
    wanted = torch.autograd.grad(plain.square().sum(), (events, target, of_target, a, c, alpha, w, bias))
    torch.testing.assert_close(given, wanted)


def test_padding_without_weight_and_no_padding_are_the_same_unit():
    torch.manual_seed(0)
    attention = Attention(6)
    events, target, example_P = torch.randn(20, 6), torch.randn(5, 6), torch.arange(20) // 4
    attention.train()
    packed = attention(Events(vectors_PW=events, example_P=example_P, is_event_P=None), target)
    everywhere = torch.ones(20, dtype=torch.bool)
    padded = attention(Events(vectors_PW=events, example_P=example_P, is_event_P=everywhere), target)
    torch.testing.assert_close(packed, padded)


def test_dice_under_the_batchs_moments_has_the_value_and_gradient_of_its_formula():
    torch.manual_seed(0)
    dice = Dice(3)
    torch.nn.init.normal_(dice.alpha_H)
    plain_in = torch.randn(9, 3, requires_grad=True)
    mean, variance = plain_in.mean(0), plain_in.var(0, correction=0)
    gate = torch.sigmoid((plain_in - mean) / (variance + attention_kernel.EPSILON).sqrt())
    plain = plain_in * (dice.alpha_H + gate * (1 - dice.alpha_H))
    plain.square().sum().backward()
    alpha_grad, dice.alpha_H.grad = dice.alpha_H.grad, None
    given = plain_in.detach().clone().requires_grad_()
    said = dice.train()(given)
    said.square().sum().backward()
    torch.testing.assert_close(said, plain)
    torch.testing.assert_close(given.grad, plain_in.grad, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(dice.alpha_H.grad, alpha_grad, rtol=1e-4, atol=1e-5)
