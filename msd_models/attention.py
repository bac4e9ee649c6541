"""DIN's two inventions: an activation that knows its input's moments, and a target that weighs the history."""

# Letters: B batch, P history positions that hold an event, W width of an item, H width of a dense layer.

from typing import Any

import torch
from torch import Tensor, nn

from msd_models.attention_kernel import EPSILON, DinAttention
from msd_models.field_embeddings import Events

ATTENTION_WIDTH = 32
DICE_MOMENTUM = 0.1


class Dice(nn.Module):
    """DIN's activation: p·x + (1−p)·α·x with p = σ(normalised x) (arXiv 1706.06978, equation 6).

    Running moments are the exact means of what was seen until 1/momentum batches are, so that a training of few steps
    is evaluated with true moments.
    """

    mean_H: Tensor
    variance_H: Tensor
    num_batches: Tensor

    def __init__(self, width: int) -> None:
        """α starts at zero, one a unit."""
        super().__init__()
        self.alpha_H = nn.Parameter(torch.zeros(width))
        self.register_buffer("mean_H", torch.zeros(width))
        self.register_buffer("variance_H", torch.ones(width))
        self.register_buffer("num_batches", torch.zeros(()))

    def forward(self, x_PH: Tensor) -> Tensor:
        """The same shape; moments run over the first dimension."""
        if not (self.training and len(x_PH) > 1):
            gate_PH = torch.sigmoid((x_PH - self.mean_H) * torch.rsqrt(self.variance_H + EPSILON))
            return x_PH * torch.addcmul(self.alpha_H, gate_PH, 1 - self.alpha_H)
        output_PH, mean_H, variance_H = _DiceOfBatch.apply(x_PH.float(), self.alpha_H)  # type: ignore[no-untyped-call]
        self.remember(mean_H, variance_H)
        return output_PH  # type: ignore[no-any-return]

    @torch.no_grad()
    def remember(self, mean_H: Tensor, variance_H: Tensor) -> None:
        """Moves the running moments towards a batch's."""
        self.num_batches += 1
        share = torch.clamp(1 / self.num_batches, min=DICE_MOMENTUM)
        self.mean_H.lerp_(mean_H, share)
        self.variance_H.lerp_(variance_H, share)


class _DiceOfBatch(torch.autograd.Function):
    """Dice under the batch's own moments, with its gradient written out.

    Left to autograd it costs 30 ms forward and back on 82,000 × 32 numbers and one core, `batch_norm` with a sigmoid
    11 ms, and this 6 ms: every pass over memory counts, and `var_mean` over the first dimension is slow.
    """

    @staticmethod
    def forward(ctx: Any, x_PH: Tensor, alpha_H: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mean_H = x_PH.mean(0)
        normal_PH = x_PH - mean_H
        variance_H = normal_PH.square().mean(0)
        rate_H = torch.rsqrt(variance_H + EPSILON)
        normal_PH.mul_(rate_H)
        gate_PH = torch.sigmoid(normal_PH)
        ctx.save_for_backward(x_PH, normal_PH, gate_PH, alpha_H, rate_H)
        ctx.mark_non_differentiable(mean_H, variance_H)
        return torch.addcmul(alpha_H, gate_PH, 1 - alpha_H).mul_(x_PH), mean_H, variance_H

    @staticmethod
    def backward(ctx: Any, grad_PH: Tensor, *_: Tensor) -> tuple[Tensor, Tensor]:
        x_PH, normal_PH, gate_PH, alpha_H, rate_H = ctx.saved_tensors
        through_PH = grad_PH * x_PH
        gated_PH = through_PH * gate_PH
        alpha_grad_H = through_PH.sum(0) - gated_PH.sum(0)
        # Through the gate: σ' = σ(1 − σ), then through the normalisation, whose mean and variance are the batch's.
        normal_grad_PH = torch.addcmul(gated_PH, gated_PH, gate_PH, value=-1).mul_(1 - alpha_H)
        mean_H = normal_grad_PH.mean(0)
        slope_H = through_PH.copy_(normal_grad_PH).mul_(normal_PH).mean(0)
        normal_grad_PH.sub_(mean_H).addcmul_(normal_PH, slope_H, value=-1).mul_(rate_H)
        direct_PH = torch.addcmul(alpha_H, gate_PH, 1 - alpha_H).mul_(grad_PH)
        return direct_PH.add_(normal_grad_PH), alpha_grad_H


class Attention(nn.Module):
    """DIN's activation unit: the weight of e_i is MLP([e_i, e_t, e_i−e_t, e_i⊙e_t]), without a softmax.

    The first layer is applied in parts (W₁+W₃)e_i + (W₂−W₃)e_t + W₄(e_i⊙e_t), which is the same number for half the
    work, and only over positions that hold an event, so that padding is never computed. In training all of it is one
    operation with a gradient of its own (`attention_kernel`).
    """

    def __init__(self, width: int) -> None:
        """`width` is that of an item: id and category."""
        super().__init__()
        self.first = nn.Linear(4 * width, ATTENTION_WIDTH)
        self.dice = Dice(ATTENTION_WIDTH)
        self.last = nn.Linear(ATTENTION_WIDTH, 1)

    def forward(self, events: Events, target_BW: Tensor) -> Tensor:
        """pooled_BW: each example's weighted sum of its own history items."""
        w1, w2, w3, w4 = self.first.weight.chunk(4, dim=1)
        events_PW, example_P = events.vectors_PW, events.example_P
        of_target_BH = nn.functional.linear(target_BW, w2 - w3, self.first.bias)
        is_plain = events_PW.device.type == "cpu" and not torch.is_autocast_enabled("cpu")
        if is_plain and self.training and len(events_PW) > 1 and events.is_event_P is None:
            weights = (w1 + w3, w4, self.dice.alpha_H, self.last.weight.squeeze(0), self.last.bias)
            pooled_BW, mean_H, variance_H = DinAttention.apply(  # type: ignore[no-untyped-call]
                events_PW, target_BW, of_target_BH, example_P, *weights
            )
            self.dice.remember(mean_H, variance_H)
            return pooled_BW  # type: ignore[no-any-return]
        # index_select and not embedding: its gradient is a scatter three times as fast where rows repeat in order.
        of_both_PH = torch.addmm(of_target_BH.index_select(0, example_P), events_PW, (w1 + w3).T)
        hidden_PH = torch.addmm(of_both_PH, events_PW * target_BW.index_select(0, example_P), w4.T)
        return sum_by_example(events, self.last(self.dice(hidden_PH)), target_BW.shape[0])


def sum_by_example(events: Events, weight_P1: Tensor | None, num_examples: int) -> Tensor:
    """sum_BW of each example's events.

    Args:
        events: of the batch.
        weight_P1: of each event; None for one each.
        num_examples: B.
    """
    values_PW = events.vectors_PW if weight_P1 is None else weight_P1 * events.vectors_PW
    if events.is_event_P is not None:
        values_PW = values_PW * events.is_event_P.unsqueeze(1)
    sums_BW = values_PW.new_zeros(num_examples, values_PW.shape[1])
    return sums_BW.index_add(0, events.example_P, values_PW)
