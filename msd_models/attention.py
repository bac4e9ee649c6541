"""DIN's two inventions: an activation that knows its input's moments, and a target that weighs the history."""

# Letters: B batch, P history positions that hold an event, W width of an item, H width of a dense layer.

import torch
from torch import Tensor, nn

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
        mean_H, variance_H = self.mean_H, self.variance_H
        if self.training and len(x_PH) > 1:
            variance_H, mean_H = torch.var_mean(x_PH.float(), dim=0, correction=0)
            self.remember(mean_H.detach(), variance_H.detach())
        gate_PH = torch.sigmoid((x_PH - mean_H) * torch.rsqrt(variance_H + 1e-6))
        return x_PH * (self.alpha_H + gate_PH * (1 - self.alpha_H))

    @torch.no_grad()
    def remember(self, mean_H: Tensor, variance_H: Tensor) -> None:
        """Moves the running moments towards a batch's."""
        self.num_batches += 1
        share = torch.clamp(1 / self.num_batches, min=DICE_MOMENTUM)
        self.mean_H.lerp_(mean_H, share)
        self.variance_H.lerp_(variance_H, share)


class Attention(nn.Module):
    """DIN's activation unit: the weight of e_i is MLP([e_i, e_t, e_i−e_t, e_i⊙e_t]), without a softmax.

    The first layer is applied in parts (W₁+W₃)e_i + (W₂−W₃)e_t + W₄(e_i⊙e_t), which is the same number for half the
    work, and only over positions that hold an event, so that padding is never computed.
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
        of_event_PH = nn.functional.linear(events_PW, w1 + w3)
        target_PW = nn.functional.embedding(example_P, target_BW)
        of_product_PH = nn.functional.linear(events_PW * target_PW, w4)
        hidden_PH = of_event_PH + of_product_PH + nn.functional.embedding(example_P, of_target_BH)
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
