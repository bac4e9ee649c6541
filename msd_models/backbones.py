"""The collaborative part of a CTR model: field embeddings and the history in, one logit an example out.

DeepFM and DIN read the same fields and the same history, so that they differ in how they read it. Whatever a semantic
module adds arrives as `extra_BX`, dense numbers beside the fields, at the input of the dense layers.
"""

# Letters: B batch, F fields, E width of an embedding, L history positions, P positions that hold an event,
# H width of a dense layer, X dense numbers of the semantic module.

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import torch
from torch import Tensor, nn

from msd_models.ctr_inputs import Batch, CtrInputs

EMBEDDING_STD = 0.01
ATTENTION_WIDTH = 32
DICE_MOMENTUM = 0.1
SPARSE_FROM_ROWS = 200_000
"""A shared table of more rows gets sparse gradients: a dense Adam step would touch every row for a thousand."""


class Backbone(StrEnum):
    """The collaborative models."""

    DEEPFM = "deepfm"
    DIN = "din"


@dataclass(frozen=True, kw_only=True)
class Shape:
    """Widths of a backbone."""

    embedding_dim: int
    hidden: tuple[int, ...]
    dropout: float
    num_extra: int
    """X."""


class FieldEmbeddings(nn.Module):
    """One table for all fields; a history item is its id beside its category, from the same rows as the target's."""

    catalogue_codes_C2: Tensor

    def __init__(self, inputs: CtrInputs, embedding_dim: int) -> None:
        """Unknown rows start at zero: where training never meets one, it stays neutral."""
        super().__init__()
        is_sparse = inputs.num_codes > SPARSE_FROM_ROWS
        self.table = nn.Embedding(inputs.num_codes, embedding_dim, sparse=is_sparse)
        nn.init.normal_(self.table.weight, std=EMBEDDING_STD)
        unknown = torch.tensor([field.offset for field in inputs.fields])
        with torch.no_grad():
            self.table.weight[unknown] = 0.0
        names = [field.name for field in inputs.fields]
        self.item_fields = [names.index("item_id"), names.index("category")]
        self.register_buffer("catalogue_codes_C2", inputs.catalogue_codes_C2, persistent=False)
        self.skipped_E2 = nn.Parameter(torch.zeros(2 * embedding_dim))

    def forward(self, batch: Batch) -> Tensor:
        """fields_BFE."""
        return self.table(batch.codes_BF)

    def target(self, fields_BFE: Tensor) -> Tensor:
        """The target item as the history knows items: target_BE2, id and category side by side."""
        return fields_BFE[:, self.item_fields].flatten(1)

    def events(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The events of all histories, padding left out: events_PE2, and which example_P each belongs to.

        An event is its item's id and category side by side; one without a click is moved by a vector of its own.
        """
        is_event_BL = batch.history_BL > 0
        events_PE2 = self.table(self.catalogue_codes_C2[batch.history_BL[is_event_BL]]).flatten(1)
        is_skipped_P = ~batch.is_liked_BL[is_event_BL]
        return events_PE2 + is_skipped_P.unsqueeze(1) * self.skipped_E2, is_event_BL.nonzero()[:, 0]


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
            variance_H, mean_H = torch.var_mean(x_PH, dim=0, correction=0)
            with torch.no_grad():
                self.num_batches += 1
                share = torch.clamp(1 / self.num_batches, min=DICE_MOMENTUM)
                self.mean_H.lerp_(mean_H, share)
                self.variance_H.lerp_(variance_H, share)
        gate_PH = torch.sigmoid((x_PH - mean_H) * torch.rsqrt(variance_H + 1e-6))
        return x_PH * (self.alpha_H + gate_PH * (1 - self.alpha_H))


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

    def forward(self, events_PE2: Tensor, target_BE2: Tensor, example_P: Tensor) -> Tensor:
        """pooled_BE2: each example's weighted sum of its own history items."""
        w1, w2, w3, w4 = self.first.weight.chunk(4, dim=1)
        of_target_BH = nn.functional.linear(target_BE2, w2 - w3, self.first.bias)
        of_event_PH = nn.functional.linear(events_PE2, w1 + w3)
        of_product_PH = nn.functional.linear(events_PE2 * target_BE2[example_P], w4)
        weight_P1 = self.last(self.dice(of_event_PH + of_product_PH + of_target_BH[example_P]))
        return torch.zeros_like(target_BE2).index_add(0, example_P, weight_P1 * events_PE2)


class DeepFm(nn.Module):
    """σ(FM + DNN) on shared embeddings; the history is two more fields, the means of its items' ids and categories."""

    def __init__(self, inputs: CtrInputs, shape: Shape) -> None:
        """Builds the tables and the dense layers."""
        super().__init__()
        self.embeddings = FieldEmbeddings(inputs, shape.embedding_dim)
        self.linear = nn.Embedding(inputs.num_codes, 1, sparse=self.embeddings.table.sparse)
        nn.init.zeros_(self.linear.weight)
        width = (len(inputs.fields) + 2) * shape.embedding_dim + shape.num_extra
        activations = [nn.ReLU() for _ in shape.hidden]
        self.dense = dense_layers(width, shape, activations)

    def forward(self, batch: Batch, extra_BX: Tensor | None) -> Tensor:
        """logit_B."""
        fields_BFE = self.embeddings(batch)
        events_PE2, example_P = self.embeddings.events(batch)
        count_B1 = torch.bincount(example_P, minlength=len(fields_BFE)).clamp(min=1).unsqueeze(1)
        sum_BE2 = events_PE2.new_zeros(len(fields_BFE), events_PE2.shape[1]).index_add(0, example_P, events_PE2)
        mean_B2E = (sum_BE2 / count_B1).view(len(fields_BFE), 2, -1)
        all_BFE = torch.cat([fields_BFE, mean_B2E], dim=1)
        pairs_B = 0.5 * (all_BFE.sum(1).square() - all_BFE.square().sum(1)).sum(1)
        first_B = self.linear(batch.codes_BF).sum((1, 2))
        return first_B + pairs_B + self.dense(_beside(all_BFE.flatten(1), extra_BX)).squeeze(1)


class Din(nn.Module):
    """Deep Interest Network (arXiv 1706.06978): the target decides what of the history is read."""

    def __init__(self, inputs: CtrInputs, shape: Shape) -> None:
        """Builds the tables, the activation unit and the dense layers."""
        super().__init__()
        self.embeddings = FieldEmbeddings(inputs, shape.embedding_dim)
        item_width = 2 * shape.embedding_dim
        self.attention = Attention(item_width)
        width = len(inputs.fields) * shape.embedding_dim + item_width + shape.num_extra
        self.dense = dense_layers(width, shape, [Dice(size) for size in shape.hidden])

    def forward(self, batch: Batch, extra_BX: Tensor | None) -> Tensor:
        """logit_B."""
        fields_BFE = self.embeddings(batch)
        events_PE2, example_P = self.embeddings.events(batch)
        pooled_BE2 = self.attention(events_PE2, self.embeddings.target(fields_BFE), example_P)
        return self.dense(_beside(torch.cat([fields_BFE.flatten(1), pooled_BE2], dim=1), extra_BX)).squeeze(1)


BACKBONES: dict[Backbone, type[DeepFm] | type[Din]] = {Backbone.DEEPFM: DeepFm, Backbone.DIN: Din}


def dense_layers(width: int, shape: Shape, activations: Sequence[nn.Module]) -> nn.Sequential:
    """Linear, activation and dropout for each hidden width, then one linear output."""
    layers: list[nn.Module] = []
    for size, activation in zip(shape.hidden, activations, strict=True):
        layers += [nn.Linear(width, size), activation, nn.Dropout(shape.dropout)]
        width = size
    return nn.Sequential(*layers, nn.Linear(width, 1))


def _beside(dense_BX: Tensor, extra_BX: Tensor | None) -> Tensor:
    return dense_BX if extra_BX is None else torch.cat([dense_BX, extra_BX], dim=1)
