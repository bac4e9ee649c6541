"""What CTR networks are built from and fed with: the records of ctr_records, opened, and batches of them.

The records lie on disk as they are read: one of fixed width an example, histories laid out in it, vectors named by row.
A network sees `CtrInputs` once, when it is built, and `Batch` after batch; neither grows with the number of examples.
"""

# Letters: B examples of a batch, F fields, M dense numbers, L history positions, Q text-context columns,
# C catalogue entries. Catalogue entry 0 is padding; vector row 0 means that there is none, row r+1 is row r of a table.

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from msd_models.fields import Field
from msd_models.record_files import RecordFile

SPLITS = ("train", "valid", "test")
NUM_GAPS = 20
"""Values of gap_BL: 0 where there is no event, else 1 + log₂(1 + hours between the event and the example), cut off."""
Rows = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Some examples."""

    codes_BF: Tensor
    """Row of each field in the shared embedding table; int64."""
    numbers_BM: Tensor
    """Normalised numbers, 0 where there is none."""
    history_BL: Tensor
    """Catalogue entries, the latest event last, 0 where there is none; int64."""
    is_liked_BL: Tensor
    """True where the event of the history was positive."""
    gap_BL: Tensor
    """How long ago the event was, in NUM_GAPS steps; int64."""
    history_rows_BL: Tensor
    """Vector rows of the history's items as far as their text was known then, 0 for none; int64."""
    item_row_B: Tensor
    """Vector row of the target; int64."""
    user_row_B: Tensor
    """Vector row of the user's latest snapshot before the example; int64."""
    context_rows_BQ: Tensor
    """Vector rows of the example's texts, one column per text_context of the source; int64."""
    click_B: Tensor
    """The label, float32."""

    def __len__(self) -> int:
        """B."""
        return len(self.click_B)

    def to(self, device: torch.device) -> "Batch":
        """The same batch on another device."""
        return Batch(**{name: tensor.to(device, non_blocking=True) for name, tensor in vars(self).items()})


@dataclass(frozen=True, kw_only=True)
class CtrInputs:
    """The opened records: what networks need to know before the first batch."""

    folder: Path
    fields: tuple[Field, ...]
    number_names: tuple[str, ...]
    context_names: tuple[str, ...]
    """The source's text_context, Q names."""
    max_history: int
    """L."""
    catalogue_codes_C2: Tensor
    """Rows of the item_id field and of the category field of each catalogue entry; int64."""
    exposures_C: Tensor
    """f: exposures in the training window; float32."""
    vector_row_C: Tensor
    """Vector row of each catalogue entry; int64."""
    sampled_rows: Mapping[str, Rows]
    """Vector rows that a sample of the training examples names, distinct, none 0: of `items`, `users`, `contexts`."""
    records: Mapping[str, RecordFile]
    """Split → its examples."""

    @property
    def num_codes(self) -> int:
        """Rows of the shared embedding table."""
        return sum(field.size for field in self.fields)

    def num_rows(self, split: str) -> int:
        """Examples of a split."""
        return len(self.records[split])

    def batch(self, records_B: npt.NDArray[np.void], *, with_vectors: bool = True) -> Batch:
        """Unpacks records.

        Args:
            records_B: some examples.
            with_vectors: False leaves history_rows_BL at 0, for networks that read no vectors.
        """
        history_BL = _whole(records_B["history"])
        flags_BL = records_B["flags"]
        if with_vectors:
            history_rows_BL = self.vector_row_C[history_BL] * torch.from_numpy((flags_BL & IS_KNOWN) > 0)
        else:
            history_rows_BL = torch.zeros((), dtype=torch.int64).expand(history_BL.shape)
        return Batch(
            codes_BF=_whole(records_B["codes"]),
            numbers_BM=torch.from_numpy(records_B["numbers"].astype(np.float32)),
            history_BL=history_BL,
            is_liked_BL=torch.from_numpy((flags_BL & IS_LIKED) > 0),
            gap_BL=_whole(records_B["gaps"]),
            history_rows_BL=history_rows_BL,
            item_row_B=_whole(records_B["item_row"]),
            user_row_B=_whole(records_B["user_row"]),
            context_rows_BQ=_whole(records_B["context_rows"]),
            click_B=torch.from_numpy(records_B["click"].astype(np.float32)),
        )


IS_LIKED, IS_KNOWN = np.uint8(1), np.uint8(2)
"""Bits of a record's flags: the event was positive; its item's text was known when the example happened."""


def _whole(column: npt.NDArray[np.integer]) -> Tensor:
    return torch.from_numpy(column.astype(np.int64))
