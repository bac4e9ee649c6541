"""KAR's hybrid-expert adaptor (arXiv 2306.10933): what two knowledge vectors say, as dense fields of any backbone.

Each side, user and item, mixes experts by a softmax gate: those that both sides read and those of its own. An expert is
an MLP from the vector through one hidden layer to adaptor_dim numbers (128 → 32 in the paper).
"""

# Letters: B batch, U distinct rows, D numbers in a vector, G experts of a side, A width of an expert's output.

from itertools import chain

import torch
from torch import Tensor, nn

from msd_models.adaptors import Table, distinct_rows
from msd_models.ctr_inputs import Batch
from pipeline.config import CtrModel


class KnowledgeReader(nn.Module):
    """The two sides' mixtures side by side, and whether each side has a vector."""

    def __init__(self, items: Table, users: Table, config: CtrModel, *, reads_user: bool = True) -> None:
        """Builds shared_experts experts for both sides and own_experts for each."""
        super().__init__()
        self.adaptor_dim = config.adaptor_dim
        self.shared = nn.ModuleList(_expert(items.dim, config) for _ in range(config.shared_experts))
        self.item_side = ExpertMixture(items, config)
        self.user_side = ExpertMixture(users, config) if reads_user else None

    @property
    def num_outputs(self) -> int:
        """X."""
        return (self.adaptor_dim + 1) * (1 if self.user_side is None else 2)

    def forward(self, batch: Batch) -> Tensor:
        """extra_BX."""
        parts = list(self.item_side(batch.item_row_B, self.shared))
        if self.user_side is not None:
            parts += self.user_side(batch.user_row_B, self.shared)
        return torch.cat(parts, dim=1)


class ExpertMixture(nn.Module):
    """One side: Σ_g softmax(gate(e))_g · expert_g(e), each distinct vector of a batch once."""

    def __init__(self, table: Table, config: CtrModel) -> None:
        """A missing vector has an output of its own, which is learned."""
        super().__init__()
        self.table = table
        self.own = nn.ModuleList(_expert(table.dim, config) for _ in range(config.own_experts))
        self.gate = nn.Linear(table.dim, config.shared_experts + config.own_experts)
        self.missing_A = nn.Parameter(torch.zeros(config.adaptor_dim))

    def forward(self, rows_B: Tensor, shared: nn.ModuleList) -> tuple[Tensor, Tensor]:
        """Mixture and whether there is a vector: mixed_BA, has_B1.

        Args:
            rows_B: 0 for a missing vector.
            shared: the experts of both sides, which belong to neither.
        """
        has_vector_B = self.table.has(rows_B)
        rows_U, place_B = distinct_rows(rows_B * has_vector_B, len(self.table))
        vectors_UD = (self.table.take(rows_U) - self.table.mean_D) * self.table.scale_D
        outputs_UGA = torch.stack([expert(vectors_UD) for expert in chain(shared, self.own)], dim=1)
        weight_UG1 = torch.softmax(self.gate(vectors_UD), dim=1).unsqueeze(2)
        mixed_UA = torch.cat([self.missing_A.unsqueeze(0), (weight_UG1 * outputs_UGA).sum(1)])
        return nn.functional.embedding(place_B, mixed_UA), has_vector_B.unsqueeze(1).float()


def _expert(dim: int, config: CtrModel) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(dim, config.expert_width), nn.ReLU(), nn.Linear(config.expert_width, config.adaptor_dim)
    )
