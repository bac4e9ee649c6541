"""The collaborative part of a CTR model: fields and the history in, what a linear output layer needs out.

All four read the same fields, numbers and history, so that they differ in how they read them. Whatever a semantic
module adds arrives as `extra_BX`, dense numbers beside the fields, or waits for the last hidden layer (msd_models/
ctr_network.py), which is why a backbone ends there and has no output layer of its own.
"""

# Letters: B batch, F fields, N fields and numbers, E width of an embedding, W = 2E width of an item, H width of the
# last hidden layer, I width of a network's input, X dense numbers of the semantic module.

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from msd_models.arms import Backbone
from msd_models.attention import Attention, Dice, sum_by_example
from msd_models.ctr_inputs import Batch, CtrInputs
from msd_models.dropout import Dropout
from msd_models.field_embeddings import SPARSE_FROM_ROWS, Embedded, FieldEmbeddings
from pipeline.config import CtrModel


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What a backbone makes of a batch."""

    high_BH: Tensor
    """The last hidden layer, the backbone's representation r of the example."""
    shallow_B: Tensor | None
    """What goes past the dense layers straight into the logit; None where nothing does."""
    codes_BFE: Tensor
    """The field embeddings that were read."""


class CollaborativeModel(nn.Module, ABC):
    """A backbone: the embeddings, and how the last hidden layer comes from them."""

    num_high: int
    """H."""

    def __init__(self, inputs: CtrInputs, config: CtrModel) -> None:
        """Builds the tables."""
        super().__init__()
        is_sparse = is_sparse_table(inputs.num_codes, config.embedding_optimiser)
        self.embeddings = FieldEmbeddings(
            inputs, config.embedding_dim, is_sparse=is_sparse, has_marks=config.history_marks
        )
        self.num_flat = (self.embeddings.num_fields + 2) * config.embedding_dim
        """Numbers of the fields and of one pooled history item."""

    @abstractmethod
    def represent(self, batch: Batch, extra_BX: Tensor | None) -> Reading:
        """Reads a batch, and beside it the dense numbers a semantic module made of it."""

    def mean_history(self, embedded: Embedded) -> Tensor:
        """mean_BW of each example's events, zeros where it has none."""
        events, num_rows = embedded.events, embedded.codes_BFE.shape[0]
        ones_P = torch.ones_like(events.example_P) if events.is_event_P is None else events.is_event_P.long()
        count_B = ones_P.new_zeros(num_rows).index_add(0, events.example_P, ones_P)
        return sum_by_example(events, None, num_rows) / count_B.clamp(min=1).unsqueeze(1)


class Mlp(CollaborativeModel):
    """Dense layers on the fields and the mean of the history."""

    def __init__(self, inputs: CtrInputs, config: CtrModel, num_extra: int) -> None:
        """Builds the tables and the dense layers."""
        super().__init__(inputs, config)
        self.dense = dense_layers(self.num_flat + num_extra, config, lambda _: nn.ReLU())
        self.num_high = config.hidden[-1]

    def represent(self, batch: Batch, extra_BX: Tensor | None) -> Reading:
        """Reads a batch."""
        embedded = self.embeddings(batch)
        flat_BI = beside(embedded.fields_BNE.flatten(1), self.mean_history(embedded), extra_BX)
        return Reading(high_BH=self.dense(flat_BI), shallow_B=None, codes_BFE=embedded.codes_BFE)


class DeepFm(CollaborativeModel):
    """FM + DNN on shared embeddings; the history is two more fields, the means of its items' ids and categories."""

    def __init__(self, inputs: CtrInputs, config: CtrModel, num_extra: int) -> None:
        """Builds the tables and the dense layers."""
        super().__init__(inputs, config)
        self.first_order = nn.Embedding(inputs.num_codes, 1, sparse=self.embeddings.table.sparse)
        nn.init.zeros_(self.first_order.weight)
        self.first_order_M = nn.Parameter(torch.zeros(len(inputs.number_names)))
        self.dense = dense_layers(self.num_flat + num_extra, config, lambda _: nn.ReLU())
        self.num_high = config.hidden[-1]

    def represent(self, batch: Batch, extra_BX: Tensor | None) -> Reading:
        """Reads a batch."""
        embedded = self.embeddings(batch)
        mean_B2E = self.mean_history(embedded).view(batch.codes_BF.shape[0], 2, -1)
        all_BNE = torch.cat([embedded.fields_BNE, mean_B2E], dim=1)
        pairs_B = 0.5 * (all_BNE.sum(1).square() - all_BNE.square().sum(1)).sum(1)
        first_B = self.first_order(batch.codes_BF).sum((1, 2)) + batch.numbers_BM @ self.first_order_M
        high_BH = self.dense(beside(all_BNE.flatten(1), extra_BX))
        return Reading(high_BH=high_BH, shallow_B=first_B + pairs_B, codes_BFE=embedded.codes_BFE)


class Din(CollaborativeModel):
    """Deep Interest Network (arXiv 1706.06978): the target decides what of the history is read."""

    def __init__(self, inputs: CtrInputs, config: CtrModel, num_extra: int) -> None:
        """Builds the tables, the activation unit and the dense layers."""
        super().__init__(inputs, config)
        self.attention = Attention(2 * config.embedding_dim)
        self.dense = dense_layers(self.num_flat + num_extra, config, Dice)
        self.num_high = config.hidden[-1]

    def represent(self, batch: Batch, extra_BX: Tensor | None) -> Reading:
        """Reads a batch."""
        embedded = self.embeddings(batch)
        pooled_BW = self.attention(embedded.events, embedded.target_BW)
        high_BH = self.dense(beside(embedded.fields_BNE.flatten(1), pooled_BW, extra_BX))
        return Reading(high_BH=high_BH, shallow_B=None, codes_BFE=embedded.codes_BFE)


class DcnV2(CollaborativeModel):
    """Cross layers x' = x₀ ⊙ (W x + b) + x beside dense layers (arXiv 2008.13535, the parallel structure)."""

    def __init__(self, inputs: CtrInputs, config: CtrModel, num_extra: int) -> None:
        """Builds the tables, the cross layers and the dense layers."""
        super().__init__(inputs, config)
        width = self.num_flat + num_extra
        self.cross = nn.ModuleList(nn.Linear(width, width) for _ in range(config.cross_layers))
        self.dense = dense_layers(width, config, lambda _: nn.ReLU())
        self.num_high = width + config.hidden[-1]

    def represent(self, batch: Batch, extra_BX: Tensor | None) -> Reading:
        """Reads a batch."""
        embedded = self.embeddings(batch)
        start_BI = beside(embedded.fields_BNE.flatten(1), self.mean_history(embedded), extra_BX)
        crossed_BI = start_BI
        for layer in self.cross:
            crossed_BI = torch.addcmul(crossed_BI, start_BI, layer(crossed_BI))
        high_BH = torch.cat([crossed_BI, self.dense(start_BI)], dim=1)
        return Reading(high_BH=high_BH, shallow_B=None, codes_BFE=embedded.codes_BFE)


BACKBONES: dict[Backbone, Callable[[CtrInputs, CtrModel, int], CollaborativeModel]] = {
    Backbone.MLP: Mlp,
    Backbone.DEEPFM: DeepFm,
    Backbone.DIN: Din,
    Backbone.DCNV2: DcnV2,
}


def is_sparse_table(num_codes: int, embedding_optimiser: str) -> bool:
    """Whether the field embeddings get sparse gradients."""
    return embedding_optimiser in ("sparse_adam", "rowwise_adagrad") or (
        embedding_optimiser == "auto" and num_codes > SPARSE_FROM_ROWS
    )


def dense_layers(width: int, config: CtrModel, activation: Callable[[int], nn.Module]) -> nn.Sequential:
    """Linear, activation and dropout for each hidden width."""
    layers: list[nn.Module] = []
    for size in config.hidden:
        layers += [nn.Linear(width, size), activation(size), Dropout(config.dropout)]
        width = size
    return nn.Sequential(*layers)


def beside(*parts: Tensor | None) -> Tensor:
    """The parts that are there, side by side."""
    return torch.cat([part for part in parts if part is not None], dim=1)
