"""What every backbone starts from: the embedded fields of a batch and the embedded events of its histories.

One lookup serves fields and events: a second one would bring a second gradient of the whole table. Padding is left out
before anything is computed on it.
"""

# Letters: B batch, F fields, M dense numbers, N = F + M, E width of an embedding, W = 2E width of an item (its id and
# its category side by side), L history positions, P positions that hold an event, C catalogue entries.

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from msd_models.ctr_inputs import NUM_GAPS, Batch, CtrInputs

EMBEDDING_STD = 0.01
SPARSE_FROM_ROWS = 200_000
"""embedding_optimiser = auto: a table of more rows gets sparse gradients, as a dense step would touch all its rows."""


@dataclass(frozen=True, kw_only=True)
class Events:
    """The events of all histories of a batch, in the batch's order."""

    vectors_PW: Tensor
    example_P: Tensor
    """Which example each belongs to, ascending."""
    is_event_P: Tensor | None
    """None where padding has been left out; else False at padding."""


@dataclass(frozen=True, kw_only=True)
class Embedded:
    """A batch as embeddings."""

    codes_BFE: Tensor
    """The fields alone, whose squared length is decayed."""
    fields_BNE: Tensor
    """Fields, then numbers."""
    target_BW: Tensor
    """The target as histories know items."""
    events: Events


class FieldEmbeddings(nn.Module):
    """One table for all fields; a history item is its id beside its category, from the same rows as the target's."""

    catalogue_codes_C2: Tensor
    keeps_padding: bool = False
    """True computes on padding too and gives it no weight: shapes then depend on no value, as torch.export wants."""

    def __init__(self, inputs: CtrInputs, embedding_dim: int, *, is_sparse: bool, has_marks: bool) -> None:
        """Unknown rows start at zero: where training never meets one, it stays neutral. So do the marks of events.

        Args:
            inputs: say which fields, numbers and catalogue there are.
            embedding_dim: E.
            is_sparse: gives the table sparse gradients.
            has_marks: adds to an event how long ago it was and how many events came after it.
        """
        super().__init__()
        self.table = nn.Embedding(inputs.num_codes, embedding_dim, sparse=is_sparse)
        nn.init.normal_(self.table.weight, std=EMBEDDING_STD)
        unknown = torch.tensor([field.offset for field in inputs.fields])
        with torch.no_grad():
            self.table.weight[unknown] = 0.0
        names = [field.name for field in inputs.fields]
        self.item_fields = [names.index("item_id"), names.index("category")]
        self.num_fields = len(names) + len(inputs.number_names)
        self.numbers_ME = nn.Parameter(torch.randn(len(inputs.number_names), embedding_dim) * EMBEDDING_STD)
        self.register_buffer("catalogue_codes_C2", inputs.catalogue_codes_C2, persistent=False)
        width = 2 * embedding_dim
        self.skipped_W = nn.Parameter(torch.zeros(width))
        self.places_LW = nn.Parameter(torch.zeros(inputs.max_history, width)) if has_marks else None
        self.gaps_GW = nn.Parameter(torch.zeros(NUM_GAPS, width)) if has_marks else None

    def forward(self, batch: Batch) -> Embedded:
        """Fields, numbers, target and events."""
        num_rows, num_fields = batch.codes_BF.shape
        place_P = self._places(batch.history_BL)
        entry_P = batch.history_BL.reshape(-1)[place_P]
        reads_catalogue = not self.keeps_padding and len(self.catalogue_codes_C2) <= len(entry_P)
        item_codes = self.catalogue_codes_C2 if reads_catalogue else self.catalogue_codes_C2[entry_P]
        codes = torch.cat([batch.codes_BF.reshape(-1), item_codes.reshape(-1)])
        fields_E, items_E = self.table(codes).split([num_rows * num_fields, item_codes.numel()])
        width = self.table.embedding_dim
        codes_BFE = fields_E.view(num_rows, num_fields, width)
        items_W = items_E.view(item_codes.shape[0], 2 * width)
        events_PW = items_W.index_select(0, entry_P) if reads_catalogue else items_W
        example_P = place_P // batch.history_BL.shape[1]
        marks_PW = self._marks(batch, place_P, example_P)
        numbers_BME = batch.numbers_BM.unsqueeze(2) * self.numbers_ME
        return Embedded(
            codes_BFE=codes_BFE,
            fields_BNE=torch.cat([codes_BFE, numbers_BME], dim=1),
            target_BW=torch.cat([codes_BFE[:, field] for field in self.item_fields], dim=1),
            events=Events(
                vectors_PW=events_PW if marks_PW is None else events_PW + marks_PW,
                example_P=example_P,
                is_event_P=entry_P > 0 if self.keeps_padding else None,
            ),
        )

    def _places(self, history_BL: Tensor) -> Tensor:
        """Which of the B·L positions are computed."""
        if self.keeps_padding:
            return torch.arange(history_BL.numel(), device=history_BL.device)
        return history_BL.reshape(-1).nonzero().squeeze(1)

    def _marks(self, batch: Batch, place_P: Tensor, example_P: Tensor) -> Tensor | None:
        """What is known of an event besides its item: that it was no click, how long ago and how many came after it.

        All combinations are added up first, some hundred rows, so that an event costs one lookup; none where nothing is
        known.
        """
        is_skipped_P = (~batch.is_liked_BL.reshape(-1)[place_P]).long()
        if self.places_LW is None and not self.keeps_padding and not is_skipped_P.any():
            return None
        table_KW = torch.stack([torch.zeros_like(self.skipped_W), self.skipped_W])
        if self.places_LW is None or self.gaps_GW is None:
            return table_KW.index_select(0, is_skipped_P)
        num_places = len(self.places_LW)
        events_BL = (batch.history_BL > 0).long()
        later_BL = events_BL.flip(1).cumsum(1).flip(1) - events_BL
        later_P = later_BL.reshape(-1)[place_P].clamp(max=num_places - 1)
        table_KW = (table_KW[:, None, None] + self.gaps_GW[:, None] + self.places_LW).flatten(0, 2)
        mark_P = (is_skipped_P * NUM_GAPS + batch.gap_BL.reshape(-1)[place_P]) * num_places + later_P
        return table_KW.index_select(0, mark_P)
