"""MSD's reading of frozen vectors: adaptors, frequency-guided masking and fusion of the relevant history items.

As in docs/methods.md (MSD, arXiv 2412.06860). The vectors themselves are never trained; the adaptors are. The item
table is adapted once a step where it is smaller than the batch's positions, else its distinct rows in the batch are: an
item that stands in a thousand histories costs one MLP row.
"""

# Letters: B batch, L history positions, K chosen positions, C catalogue entries, R rows of a table, U distinct rows,
# D numbers in a frozen vector, A width of an adapted vector e', X numbers handed to the backbone.

from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import torch
from torch import Tensor, nn

from msd_models.ctr_inputs import Batch
from msd_models.vector_tables import VectorTable

STATISTICS_ROWS = 100_000
"""Rows behind mean and deviation; more change the third digit at most."""

MIN_DEVIATION = 1e-6


class Mask(StrEnum):
    """Which history items frequency-guided masking prefers to hide."""

    POPULAR = "popular"
    RARE = "rare"
    WORD2VEC = "word2vec"
    NONE = "none"


@dataclass(frozen=True, kw_only=True)
class Masking:
    """Settings of the masking."""

    mask: Mask
    minimum: float
    maximum: float
    gamma: float
    threshold: float
    """t of word2vec, a share of all exposures."""


@dataclass(frozen=True, kw_only=True)
class Fusion:
    """What the semantic module reads and how."""

    adaptor_dim: int
    top_k: int
    masking: Masking
    reads_user: bool = True
    fuses_history: bool = True


def masking_probability(exposures_C: Tensor, masking: Masking) -> Tensor:
    """p_i of each catalogue entry, from its exposures f_i in the training window."""
    if masking.mask is Mask.NONE:
        return torch.zeros_like(exposures_C)
    if masking.mask is Mask.WORD2VEC:
        share_C = exposures_C / exposures_C.sum().clamp(min=1)
        return (1 - (masking.threshold / share_C.clamp(min=1e-12)).sqrt()).clamp(min=0)
    ratio_C = (torch.log1p(exposures_C) / torch.log1p(exposures_C.max()).clamp(min=1e-12)) ** masking.gamma
    if masking.mask is Mask.RARE:
        ratio_C = 1 - ratio_C
    return (masking.minimum + (masking.maximum - masking.minimum) * ratio_C).clamp(0, 1)


def fuse(target_BA: Tensor, adapted_UA: Tensor, rows_BL: Tensor, is_open_BL: Tensor, top_k: int) -> Tensor:
    """e_item: the sum of the k history vectors most similar to the target's.

    Args:
        target_BA: e' of the target.
        adapted_UA: e' of every item the batch names.
        rows_BL: which of them stands at each history position.
        is_open_BL: False where there is no vector or it is masked: such a position is out of the choice (s = −∞).
        top_k: k; where fewer positions are open those are summed, and where none is, e_item is the target's own e'.
    """
    unit_UA = nn.functional.normalize(adapted_UA.detach(), dim=-1)
    unit_BA = nn.functional.normalize(target_BA.detach(), dim=-1)
    cosine_BL = torch.bmm(unit_UA[rows_BL], unit_BA.unsqueeze(-1)).squeeze(-1)
    cosine_BL = cosine_BL.masked_fill(~is_open_BL, -torch.inf)
    best_BK, place_BK = cosine_BL.topk(min(top_k, cosine_BL.shape[1]), dim=1)
    is_chosen_BK = torch.isfinite(best_BK)
    chosen_BKA = nn.functional.embedding(rows_BL.gather(1, place_BK), adapted_UA)
    sum_BA = (chosen_BKA * is_chosen_BK.unsqueeze(-1)).sum(1)
    return torch.where(is_chosen_BK.any(1, keepdim=True), sum_BA, target_BA)


class FrozenTable(nn.Module):
    """A table of frozen vectors, and what standardises each of their numbers; row 0 is a missing vector."""

    vectors_RD: Tensor
    has_vector_R: Tensor
    mean_D: Tensor
    scale_D: Tensor

    def __init__(self, table: VectorTable, training_rows: Tensor) -> None:
        """Mean and deviation are those of the rows training reads; no label enters them.

        Args:
            table: the vectors.
            training_rows: rows of training examples, 0 for none, r+1 for the table's row r.
        """
        super().__init__()
        self.register_buffer("vectors_RD", torch.from_numpy(table.vectors_ND), persistent=False)
        has_vector_R = torch.from_numpy(np.append(False, table.has_vector_N))
        self.register_buffer("has_vector_R", has_vector_R, persistent=False)
        mean_D, scale_D = _moments(table, training_rows)
        self.register_buffer("mean_D", mean_D)
        self.register_buffer("scale_D", scale_D)

    @property
    def dim(self) -> int:
        """D."""
        return self.vectors_RD.shape[1]

    def __len__(self) -> int:
        """Rows of the table, the missing one not counted."""
        return len(self.vectors_RD)


class Adaptor(nn.Module):
    """e' = MLP(e) of standardised vectors; a missing vector has an e' of its own, which is learned."""

    def __init__(self, table: FrozenTable, adaptor_dim: int) -> None:
        """One hidden layer of twice the output's width."""
        super().__init__()
        self.table = table
        self.first = nn.Linear(table.dim, 2 * adaptor_dim)
        self.last = nn.Linear(2 * adaptor_dim, adaptor_dim)
        self.missing_A = nn.Parameter(torch.zeros(adaptor_dim))

    def forward(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Adapts the rows a batch names, each distinct row once.

        Args:
            rows: any shape; 0 for a missing vector.

        Returns:
            adapted_UA with the missing vector's e' first, the place of each row in it, and whether each row has one.
        """
        if len(self.table) <= rows.numel():
            vectors_UD, has_vector_U, place = self.table.vectors_RD, self.table.has_vector_R[1:], rows.long()
        else:
            rows_U, place = torch.unique(torch.cat([rows.new_zeros(1), rows.flatten()]), return_inverse=True)
            rows_U, place = rows_U[1:].long(), place[1:].view(rows.shape)
            vectors_UD, has_vector_U = self.table.vectors_RD[rows_U - 1], self.table.has_vector_R[rows_U]
        # W·((e−μ)/σ) + b = (W/σ)·e + (b − (W/σ)·μ): the table is read as it lies.
        weight = self.first.weight * self.table.scale_D
        hidden_UA = torch.relu(nn.functional.linear(vectors_UD, weight, self.first.bias - weight @ self.table.mean_D))
        adapted_UA = torch.where(has_vector_U.unsqueeze(1), self.last(hidden_UA), self.missing_A)
        return torch.cat([self.missing_A.unsqueeze(0), adapted_UA]), place, self.table.has_vector_R[rows]


class SemanticReader(nn.Module):
    """The semantic half of the CTR input: user e', e_item, target e', and whether user and target have a vector."""

    masking_C: Tensor

    def __init__(self, items: FrozenTable, users: FrozenTable, exposures_C: Tensor, fusion: Fusion) -> None:
        """History and target share one adaptor, as they are compared; users have their own."""
        super().__init__()
        self.fusion = fusion
        self.item_adaptor = Adaptor(items, fusion.adaptor_dim)
        self.user_adaptor = Adaptor(users, fusion.adaptor_dim) if fusion.reads_user else None
        self.register_buffer("masking_C", masking_probability(exposures_C, fusion.masking), persistent=False)

    @property
    def num_outputs(self) -> int:
        """X."""
        return (
            self.fusion.adaptor_dim * (1 + self.fusion.reads_user + self.fusion.fuses_history)
            + 1
            + (1 if self.fusion.reads_user else 0)
        )

    def forward(self, batch: Batch) -> Tensor:
        """extra_BX."""
        rows = torch.cat([batch.item_row_B.unsqueeze(1), batch.history_rows_BL], dim=1)
        adapted_UA, place, has_vector = self.item_adaptor(rows)
        target_BA = nn.functional.embedding(place[:, 0], adapted_UA)
        parts = [target_BA, has_vector[:, :1].float()]
        if self.fusion.fuses_history:
            is_open_BL = has_vector[:, 1:] & batch.is_liked_BL & has_vector[:, :1]
            if self.training:
                is_open_BL &= torch.rand(is_open_BL.shape, device=rows.device) >= self.masking_C[batch.history_BL]
            parts.append(fuse(target_BA, adapted_UA, place[:, 1:], is_open_BL, self.fusion.top_k))
        if self.user_adaptor is not None:
            adapted_UA, place, has_vector = self.user_adaptor(batch.user_row_B)
            parts += [nn.functional.embedding(place, adapted_UA), has_vector.unsqueeze(1).float()]
        return torch.cat(parts, dim=1)


def _moments(table: VectorTable, training_rows: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and 1/deviation of each number; a number that never varies is scaled to zero."""
    rows = np.unique(training_rows.numpy())
    rows = rows[rows > 0] - 1
    rows = rows[table.has_vector_N[rows]]
    dim = table.vectors_ND.shape[1]
    if not len(rows):
        return torch.zeros(dim), torch.ones(dim)
    step = -(-len(rows) // STATISTICS_ROWS)
    sample = np.asarray(table.vectors_ND[rows[::step]], dtype=np.float64)
    deviation_D = sample.std(axis=0)
    scale_D = np.where(deviation_D > MIN_DEVIATION, 1 / np.maximum(deviation_D, MIN_DEVIATION), 0.0)
    return torch.from_numpy(sample.mean(axis=0)).float(), torch.from_numpy(scale_D).float()
