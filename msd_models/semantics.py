"""MSD's reading of vectors: adaptors, frequency-guided masking, fusion of relevant history items, texts of the event.

As in docs/methods.md (MSD, arXiv 2412.06860). The vectors themselves are not trained here; the adaptors are.
"""

# Letters: B batch, L history positions, K chosen positions, Q text-context columns, C catalogue entries, U distinct
# rows, A width of an adapted vector e', X numbers handed to the backbone.

from dataclasses import dataclass
from enum import StrEnum
from typing import Self

import torch
from torch import Tensor, nn

from msd_models.adaptors import Adaptor, Table
from msd_models.ctr_inputs import Batch
from pipeline.config import CtrModel


class Mask(StrEnum):
    """Which history items frequency-guided masking prefers to hide."""

    POPULAR = "popular"
    RARE = "rare"
    WORD2VEC = "word2vec"
    NONE = "none"


class FusedEvents(StrEnum):
    """Which events of a history may be fused."""

    LIKED = "liked"
    ALL = "all"


class EmptyFusion(StrEnum):
    """e_item where no event is left to be fused."""

    TARGET = "target"
    """The target's own e'."""
    ZERO = "zero"


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
    """What the semantic module reads and how; every reading of the paper that it does not settle itself."""

    adaptor_dim: int
    top_k: int
    masking: Masking
    reads_user: bool = True
    fuses_history: bool = True
    has_target: bool = True
    """False leaves the target's e' out of the CTR input; the fusion still compares with it."""
    shares_item_adaptor: bool = True
    """History items are adapted as targets are."""
    shares_user_adaptor: bool = False
    fused_events: FusedEvents = FusedEvents.LIKED
    empty_fusion: EmptyFusion = EmptyFusion.TARGET

    @classmethod
    def of(cls, config: CtrModel, *, reads_user: bool = True, fuses_history: bool = True) -> Self:
        """The settings of ctr_model that are about the semantic module."""
        return cls(
            adaptor_dim=config.adaptor_dim,
            top_k=config.top_k,
            masking=Masking(
                mask=Mask(config.mask),
                minimum=config.mask_min,
                maximum=config.mask_max,
                gamma=config.mask_gamma,
                threshold=config.mask_threshold,
            ),
            reads_user=reads_user,
            fuses_history=fuses_history,
            has_target=config.target_vector,
            shares_item_adaptor=config.share_item_adaptor,
            shares_user_adaptor=config.share_user_adaptor,
            fused_events=FusedEvents(config.fused_events),
            empty_fusion=EmptyFusion(config.empty_fusion),
        )


class SemanticReader(nn.Module):
    """The semantic half of the CTR input: target e', e_item, user e', the event's texts, and who has a vector."""

    masking_C: Tensor

    def __init__(
        self, items: Table, users: Table, exposures_C: Tensor, fusion: Fusion, contexts: tuple[Table, int] | None = None
    ) -> None:
        """Builds the adaptors.

        Args:
            items: of targets and history items.
            users: of users.
            exposures_C: f of each catalogue entry in the training window.
            fusion: what is read and how.
            contexts: the table of the event's texts and Q; None reads none. They meet the target in the model, so the
                items' adaptor reads them, standardised by their own moments.
        """
        super().__init__()
        self.fusion = fusion
        self.item_adaptor = Adaptor(items, fusion.adaptor_dim)
        needs_own = fusion.fuses_history and not fusion.shares_item_adaptor
        self.history_adaptor = Adaptor(items, fusion.adaptor_dim) if needs_own else None
        self.users = users
        needs_own = fusion.reads_user and not fusion.shares_user_adaptor
        self.user_adaptor = Adaptor(users, fusion.adaptor_dim) if needs_own else None
        self.contexts = None if contexts is None else contexts[0]
        self.num_contexts = 0 if contexts is None else contexts[1]
        self.register_buffer("masking_C", masking_probability(exposures_C, fusion.masking), persistent=False)

    @property
    def num_outputs(self) -> int:
        """X."""
        vectors = self.fusion.has_target + self.fusion.fuses_history + self.fusion.reads_user + 2 * self.num_contexts
        return self.fusion.adaptor_dim * vectors + 1 + self.fusion.reads_user + 2 * self.num_contexts

    def forward(self, batch: Batch) -> Tensor:
        """extra_BX."""
        target_BA, has_target_B, parts = self._items(batch)
        if self.fusion.reads_user:
            adaptor = self.user_adaptor or self.item_adaptor
            adapted_UA, place_B, has_user_B = adaptor(batch.user_row_B, self.users)
            parts += [nn.functional.embedding(place_B, adapted_UA), has_user_B.unsqueeze(1).float()]
        if self.contexts is not None:
            adapted_UA, place_BQ, has_BQ = self.item_adaptor(batch.context_rows_BQ, self.contexts)
            context_BQA = nn.functional.embedding(place_BQ, adapted_UA)
            parts.append(meet(context_BQA, target_BA, has_BQ, has_target_B))
        return torch.cat(parts, dim=1)

    def _items(self, batch: Batch) -> tuple[Tensor, Tensor, list[Tensor]]:
        """The e' of the target, whether it has a vector, and what of it and of the history joins the output."""
        history_rows_BL = batch.history_rows_BL if self.fusion.fuses_history else batch.history_rows_BL[:, :0]
        if self.history_adaptor is None:
            rows = torch.cat([batch.item_row_B.unsqueeze(1), history_rows_BL], dim=1)
            adapted_UA, place, has_vector = self.item_adaptor(rows)
            place_B, has_target_B, place_BL, has_BL = place[:, 0], has_vector[:, 0], place[:, 1:], has_vector[:, 1:]
            events_UA = adapted_UA
        else:
            adapted_UA, place_B, has_target_B = self.item_adaptor(batch.item_row_B)
            events_UA, place_BL, has_BL = self.history_adaptor(history_rows_BL)
        target_BA = nn.functional.embedding(place_B, adapted_UA)
        parts = [target_BA] if self.fusion.has_target else []
        parts.append(has_target_B.unsqueeze(1).float())
        if self.fusion.fuses_history:
            is_open_BL = self._is_open(batch, has_BL & has_target_B.unsqueeze(1))
            fused_BA, is_any_B1 = fuse(target_BA, events_UA, place_BL, is_open_BL, self.fusion.top_k)
            falls_back = self.fusion.empty_fusion is EmptyFusion.TARGET
            parts.append(torch.where(is_any_B1, fused_BA, target_BA) if falls_back else fused_BA)
        return target_BA, has_target_B, parts

    def _is_open(self, batch: Batch, has_vectors_BL: Tensor) -> Tensor:
        """Positions that may be chosen: both vectors are there, the event counts, and it is not masked."""
        is_open_BL = has_vectors_BL
        if self.fusion.fused_events is FusedEvents.LIKED:
            is_open_BL = is_open_BL & batch.is_liked_BL
        if self.training:
            is_hidden_BL = torch.rand(is_open_BL.shape, device=is_open_BL.device) < self.masking_C[batch.history_BL]
            is_open_BL = is_open_BL & ~is_hidden_BL
        return is_open_BL


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


def fuse(
    target_BA: Tensor, adapted_UA: Tensor, place_BL: Tensor, is_open_BL: Tensor, top_k: int
) -> tuple[Tensor, Tensor]:
    """e_item: the sum of the k history vectors most similar to the target's.

    Args:
        target_BA: e' of the target.
        adapted_UA: e' of every item the batch names.
        place_BL: which of them stands at each history position.
        is_open_BL: False where there is no vector or it is masked: such a position is out of the choice (s = −∞).
        top_k: k; where fewer positions are open those are summed.

    Returns:
        The sum, and whether any position was open.
    """
    unit_UA = nn.functional.normalize(adapted_UA.detach(), dim=-1)
    unit_BA = nn.functional.normalize(target_BA.detach(), dim=-1)
    # A product and a sum: bmm of matrices as narrow as these takes a CPU longer.
    events_BLA = unit_UA.index_select(0, place_BL.reshape(-1)).view(*place_BL.shape, -1)
    cosine_BL = events_BLA.mul_(unit_BA.unsqueeze(1)).sum(2)
    cosine_BL = cosine_BL.masked_fill(~is_open_BL, -torch.inf)
    best_BK, position_BK = cosine_BL.topk(min(top_k, cosine_BL.shape[1]), dim=1)
    is_chosen_BK = torch.isfinite(best_BK)
    chosen_BKA = nn.functional.embedding(place_BL.gather(1, position_BK), adapted_UA)
    return (chosen_BKA * is_chosen_BK.unsqueeze(-1)).sum(1), is_chosen_BK.any(1, keepdim=True)


def meet(context_BQA: Tensor, target_BA: Tensor, has_BQ: Tensor, has_target_B: Tensor) -> Tensor:
    """How each text of the event and the target go together: e'_q, e'_q ⊙ e'_t, their cosine, and whether q is there.

    Returns:
        One row an example: all e'_q, all products, all cosines, all flags. A cosine is 0 where either is missing.
    """
    product_BQA = context_BQA * target_BA.unsqueeze(1)
    both_BQ1 = (has_BQ & has_target_B.unsqueeze(1)).unsqueeze(2)
    # Ones in place of a missing vector: the cosine of a vector of zeros has no gradient to speak of.
    known_BQA = torch.where(both_BQ1, context_BQA, 1.0)
    cosine_BQ = nn.functional.cosine_similarity(known_BQA, torch.where(both_BQ1, target_BA.unsqueeze(1), 1.0), dim=2)
    cosine_BQ = cosine_BQ * both_BQ1.squeeze(2)
    return torch.cat([context_BQA.flatten(1), product_BQA.flatten(1), cosine_BQ, has_BQ.float()], dim=1)
