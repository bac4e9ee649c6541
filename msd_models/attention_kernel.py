"""DIN's attention over a batch's events in one differentiable step, worked off in pieces that stay in a core's cache.

The unit is: hidden = A·e_i + C·(e_i⊙e_t) + f_t, weight = w·Dice(hidden) + b, pooled_t = Σ weight_i · e_i. Left to
autograd each of its thirty operations goes over all events in memory, forward and back; here a piece of some thousand
events passes through all of them at once. Dice needs moments over all events, and its gradient two means over them, so
that forward and back are two rounds each. `msd_models.attention` holds the same in plain words, and a test compares.
"""

# Letters: B batch, P events, R events of a piece, W width of an item, H width of the hidden layer.

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

EPSILON = 1e-6
PIECE_EVENTS = 8192


class DinAttention(torch.autograd.Function):
    """pooled_BW, and the mean and variance of the hidden layer, which carry no gradient."""

    @staticmethod
    def forward(
        ctx: Any,
        events_PW: Tensor,
        target_BW: Tensor,
        of_target_BH: Tensor,
        example_P: Tensor,
        *weights: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Weights are A_HW, C_HW, α_H of Dice, w_H and b."""
        a_HW, c_HW, alpha_H, w_H, bias = weights
        hidden_PH = events_PW.new_empty(len(events_PW), len(alpha_H))
        mean_H, variance_H = _hidden(hidden_PH, events_PW, target_BW, of_target_BH, example_P, a_HW, c_HW)
        rate_H = torch.rsqrt(variance_H + EPSILON)
        weight_P = events_PW.new_empty(len(events_PW))
        pooled_BW = torch.zeros_like(target_BW)
        for piece in _pieces(len(events_PW)):
            gate_RH = torch.sigmoid((hidden_PH[piece] - mean_H).mul_(rate_H))
            active_RH = torch.addcmul(alpha_H, gate_RH, 1 - alpha_H).mul_(hidden_PH[piece])
            torch.addmv(bias, active_RH, w_H, out=weight_P[piece])
            weighted_RW = events_PW[piece] * weight_P[piece].unsqueeze(1)
            pooled_BW.index_add_(0, example_P[piece], weighted_RW)
        ctx.save_for_backward(
            events_PW, target_BW, example_P, hidden_PH, weight_P, mean_H, rate_H, a_HW, c_HW, alpha_H, w_H
        )
        ctx.mark_non_differentiable(mean_H, variance_H)
        return pooled_BW, mean_H, variance_H

    @staticmethod
    def backward(ctx: Any, grad_BW: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of events, target, of_target and the weights."""
        events_PW, target_BW, example_P, hidden_PH, weight_P, mean_H, rate_H, a_HW, c_HW, alpha_H, w_H = (
            ctx.saved_tensors
        )
        through = _back_to_hidden(grad_BW, events_PW, example_P, hidden_PH, weight_P, (mean_H, rate_H, alpha_H, w_H))
        events_grad_PW, hidden_grad_PH, alpha_grad_H, w_grad_H, bias_grad = through
        target_grad_BW, of_target_grad_BH = torch.zeros_like(target_BW), grad_BW.new_zeros(len(target_BW), len(w_H))
        a_grad_HW, c_grad_HW = torch.zeros_like(a_HW), torch.zeros_like(c_HW)
        for piece in _pieces(len(events_PW)):
            event_RW, grad_RH, example_R = events_PW[piece], hidden_grad_PH[piece], example_P[piece]
            target_RW = target_BW.index_select(0, example_R)
            a_grad_HW.addmm_(grad_RH.T, event_RW)
            c_grad_HW.addmm_(grad_RH.T, event_RW * target_RW)
            product_grad_RW = grad_RH @ c_HW
            events_grad_PW[piece].addmm_(grad_RH, a_HW).addcmul_(product_grad_RW, target_RW)
            target_grad_BW.index_add_(0, example_R, product_grad_RW.mul_(event_RW))
            of_target_grad_BH.index_add_(0, example_R, grad_RH)
        weights = (a_grad_HW, c_grad_HW, alpha_grad_H, w_grad_H, bias_grad)
        return events_grad_PW, target_grad_BW, of_target_grad_BH, None, *weights


def _pieces(num_events: int) -> Iterator[slice]:
    for first in range(0, num_events, PIECE_EVENTS):
        yield slice(first, min(first + PIECE_EVENTS, num_events))


def _hidden(
    hidden_PH: Tensor,
    events_PW: Tensor,
    target_BW: Tensor,
    of_target_BH: Tensor,
    example_P: Tensor,
    a_HW: Tensor,
    c_HW: Tensor,
) -> tuple[Tensor, Tensor]:
    """Fills the hidden layer; returns its mean and variance, the pieces' own ones merged (Chan et al. 1983)."""
    counts, means, squares = [], [], []
    for piece in _pieces(len(events_PW)):
        event_RW, example_R, hidden_RH = events_PW[piece], example_P[piece], hidden_PH[piece]
        torch.addmm(of_target_BH.index_select(0, example_R), event_RW, a_HW.T, out=hidden_RH)
        hidden_RH.addmm_(target_BW.index_select(0, example_R).mul_(event_RW), c_HW.T)
        mean_H = hidden_RH.mean(0)
        counts.append(float(len(event_RW)))
        means.append(mean_H)
        squares.append((hidden_RH - mean_H).square_().sum(0))
    counts_C1, means_CH = hidden_PH.new_tensor(counts).unsqueeze(1), torch.stack(means)
    mean_H = (counts_C1 * means_CH).sum(0) / len(events_PW)
    spread_H = torch.stack(squares).sum(0) + (counts_C1 * (means_CH - mean_H).square()).sum(0)
    return mean_H, spread_H / len(events_PW)


def _back_to_hidden(
    grad_BW: Tensor,
    events_PW: Tensor,
    example_P: Tensor,
    hidden_PH: Tensor,
    weight_P: Tensor,
    dice: tuple[Tensor, Tensor, Tensor, Tensor],
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of the events as they are summed, of the hidden layer, and of α, w and b."""
    mean_H, rate_H, alpha_H, w_H = dice
    events_grad_PW, hidden_grad_PH, normal_grad_PH = (
        torch.empty_like(one) for one in (events_PW, hidden_PH, hidden_PH)
    )
    alpha_grad_H, w_grad_H, sum_H, slope_H = (torch.zeros_like(w_H) for _ in range(4))
    bias_grad = w_H.new_zeros(1)
    for piece in _pieces(len(events_PW)):
        hidden_RH, grad_RW = hidden_PH[piece], grad_BW.index_select(0, example_P[piece])
        weight_grad_R = (grad_RW * events_PW[piece]).sum(1)
        torch.mul(grad_RW, weight_P[piece].unsqueeze(1), out=events_grad_PW[piece])
        normal_RH = (hidden_RH - mean_H).mul_(rate_H)
        gate_RH = torch.sigmoid(normal_RH)
        slant_RH = torch.addcmul(alpha_H, gate_RH, 1 - alpha_H)
        w_grad_H.addmv_((slant_RH * hidden_RH).T, weight_grad_R)
        bias_grad += weight_grad_R.sum()
        active_grad_RH = weight_grad_R.unsqueeze(1) * w_H
        through_RH = active_grad_RH * hidden_RH
        gated_RH = through_RH * gate_RH
        alpha_grad_H += through_RH.sum(0) - gated_RH.sum(0)
        # Through the gate: σ' = σ(1 − σ).
        normal_grad_RH = torch.addcmul(gated_RH, gated_RH, gate_RH, value=-1, out=normal_grad_PH[piece])
        normal_grad_RH.mul_(1 - alpha_H)
        sum_H += normal_grad_RH.sum(0)
        slope_H += gated_RH.copy_(normal_grad_RH).mul_(normal_RH).sum(0)
        torch.mul(active_grad_RH, slant_RH, out=hidden_grad_PH[piece])
    # Through the normalisation, whose mean and variance are the batch's.
    sum_H, slope_H = sum_H * rate_H / len(events_PW), slope_H * rate_H / len(events_PW)
    for piece in _pieces(len(events_PW)):
        normal_RH = (hidden_PH[piece] - mean_H).mul_(rate_H)
        hidden_grad_PH[piece].addcmul_(normal_grad_PH[piece], rate_H).sub_(sum_H).addcmul_(normal_RH, slope_H, value=-1)
    return events_grad_PW, hidden_grad_PH, alpha_grad_H, w_grad_H, bias_grad
