"""Tables of vectors as a network reads them, and adaptors: e' = MLP(e), trained on vectors that are not.

A batch names an item in thousands of histories; its distinct rows are found first, and each is taken and adapted once.
A table may be larger than memory: only a batch's distinct rows are ever brought to the device.
"""

# Letters: R rows of a table and the missing one, U distinct rows of a batch, D numbers in a vector, A width of an
# adapted vector e'.

from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from msd_models.vector_tables import VectorTable

HELD_BYTES = 64 * 1024 * 1024
"""A table of up to this many bytes is held on the device as one tensor."""
MARKED_ROWS = 4
"""Distinct rows are found by marking a table of up to so many rows a named one, and by sorting above."""
MIN_DEVIATION = 1e-6
PIECE_ROWS = 4096
"""Rows whose moments are taken at once."""


class Table(Protocol):
    """Vectors by row: 0 is a missing vector, r+1 the table's row r."""

    mean_D: Tensor
    scale_D: Tensor
    """1/deviation of each number."""

    @property
    def dim(self) -> int:
        """D."""

    def __len__(self) -> int:
        """Rows of the table, the missing one not counted."""

    def take(self, rows_U: Tensor) -> Tensor:
        """vectors_UD of distinct rows that have one; gradients may lead through them."""

    def has(self, rows: Tensor) -> Tensor:
        """Which rows, of any shape, have a vector; 0 has none."""


class FrozenTable(nn.Module):
    """A table of vectors that are not trained, and what standardises each of their numbers."""

    has_vector_R: Tensor
    mean_D: Tensor
    scale_D: Tensor

    def __init__(self, table: VectorTable, sampled_rows: npt.NDArray[np.int64]) -> None:
        """Mean and deviation are those of rows that training reads; no label enters them.

        Args:
            table: the vectors; neither part of the module's state nor moved as a whole, unless they are few.
            sampled_rows: r+1 of rows that training examples name.
        """
        super().__init__()
        self._table = table
        self._held_ND: Tensor | None = None
        has_vector_R = torch.from_numpy(np.append(False, table.has_vector_N))
        self.register_buffer("has_vector_R", has_vector_R, persistent=False)
        mean_D, scale_D = _moments(table, sampled_rows)
        self.register_buffer("mean_D", mean_D)
        self.register_buffer("scale_D", scale_D)

    @property
    def dim(self) -> int:
        """D."""
        return self._table.dim

    def __len__(self) -> int:
        """Rows of the table, the missing one not counted."""
        return self._table.num_rows

    def take(self, rows_U: Tensor) -> Tensor:
        """vectors_UD on the device of the rows."""
        if len(self) * self.dim * 4 > HELD_BYTES:
            return torch.from_numpy(self._table.take(rows_U.cpu().numpy() - 1)).to(rows_U.device)
        if self._held_ND is None or self._held_ND.device != rows_U.device:
            self._held_ND = torch.from_numpy(self._table.take(np.arange(len(self)))).to(rows_U.device)
        return self._held_ND.index_select(0, rows_U - 1)

    def has(self, rows: Tensor) -> Tensor:
        """Which rows have a vector."""
        return self.has_vector_R[rows]


class Adaptor(nn.Module):
    """e' = MLP(e) of standardised vectors; a missing vector has an e' of its own, which is learned."""

    def __init__(self, table: Table, adaptor_dim: int) -> None:
        """One hidden layer of twice the output's width."""
        super().__init__()
        self.table = table
        self.first = nn.Linear(table.dim, 2 * adaptor_dim)
        self.last = nn.Linear(2 * adaptor_dim, adaptor_dim)
        self.missing_A = nn.Parameter(torch.zeros(adaptor_dim))

    def forward(self, rows: Tensor, table: Table | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Adapts the rows a batch names, each distinct row once.

        Args:
            rows: any shape; 0 for a missing vector.
            table: another table of the same space to read them from.

        Returns:
            adapted_UA with the missing vector's e' first, the place of each row in it, and whether each row has one.
        """
        table = self.table if table is None else table
        has_vector = table.has(rows)
        rows_U, place = distinct_rows(rows * has_vector, len(table))
        weight, bias = standardising(self.first, table)
        adapted_UA = self.last(torch.relu(nn.functional.linear(table.take(rows_U), weight, bias)))
        return torch.cat([self.missing_A.unsqueeze(0), adapted_UA]), place, has_vector


def standardising(layer: nn.Linear, table: Table) -> tuple[Tensor, Tensor]:
    """Weight and bias of a layer on standardised vectors, to be used on the vectors as they are.

    W·((e−μ)/σ) + b = (W/σ)·e + (b − (W/σ)·μ).
    """
    weight = layer.weight * table.scale_D
    return weight, layer.bias - weight @ table.mean_D


def distinct_rows(rows: Tensor, num_rows: int) -> tuple[Tensor, Tensor]:
    """The distinct rows but 0, ascending, and the place of each named row in [0, *distinct].

    Args:
        rows: any shape, values 0 … num_rows.
        num_rows: of the table. Where it is not much larger than the batch, marking rows is faster than sorting them.
    """
    if num_rows <= MARKED_ROWS * rows.numel():
        is_named_R = torch.zeros(num_rows + 1, dtype=torch.bool, device=rows.device)
        is_named_R[rows] = True
        is_named_R[0] = False
        return is_named_R.nonzero().squeeze(1), (is_named_R.cumsum(0) * is_named_R)[rows]
    with_missing, place = torch.unique(torch.cat([rows.new_zeros(1), rows.reshape(-1)]), return_inverse=True)
    return with_missing[1:], place[1:].view(rows.shape)


def _moments(table: VectorTable, sampled_rows: npt.NDArray[np.int64]) -> tuple[Tensor, Tensor]:
    """Mean and 1/deviation of each number; a number that never varies is scaled to zero.

    A piece of the rows is in memory at once; means and squares of pieces are merged (Chan et al. 1983).
    """
    rows = np.asarray(sampled_rows, dtype=np.int64) - 1
    rows = rows[table.has_vector_N[rows]]
    if not len(rows):
        return torch.zeros(table.dim), torch.ones(table.dim)
    mean_D, squares_D = np.zeros(table.dim), np.zeros(table.dim)
    for first in range(0, len(rows), PIECE_ROWS):
        piece = table.take(rows[first : first + PIECE_ROWS]).astype(np.float64)
        count = first + len(piece)
        off_D = piece.mean(axis=0) - mean_D
        squares_D += ((piece - piece.mean(axis=0)) ** 2).sum(axis=0) + off_D**2 * first * len(piece) / count
        mean_D += off_D * len(piece) / count
    deviation_D = np.sqrt(squares_D / len(rows))
    scale_D = np.where(deviation_D > MIN_DEVIATION, 1 / np.maximum(deviation_D, MIN_DEVIATION), 0.0)
    return torch.from_numpy(mean_D).float(), torch.from_numpy(scale_D).float()
