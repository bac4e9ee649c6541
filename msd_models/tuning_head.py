"""The CTR network that a tuning trains on top of the student and throws away afterwards: DIN with MSD's reader.

It is the network of the arm `msd`; only its tables differ: their rows are the vectors of one batch, computed live, and
gradients flow out of them.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from msd_models.adaptors import MIN_DEVIATION
from msd_models.arms import Backbone, Injection
from msd_models.backbones import BACKBONES
from msd_models.ctr_inputs import Batch, CtrInputs
from msd_models.ctr_network import CtrNetwork
from msd_models.semantics import Fusion, SemanticReader
from pipeline.config import CtrModel

# B examples, R rows of a live table, D dimensions

MIN_ROWS = 8
"""Fewer vectors have no moments to speak of."""


class LiveTable(nn.Module):
    """A table whose vectors are set anew for every batch; row 0 is a missing vector, row r+1 the r-th of the batch.

    Vectors are standardised by the moments of those that are shown, through which gradients flow: the arms take the
    moments of tuned vectors as well. What all texts have in common is far larger than what tells them apart, and under
    moments of the untuned student one step of the adapters would throw every text out of what the network reads.
    """

    def __init__(self, base_ND: Tensor) -> None:
        """Takes vectors of the untuned student, whose moments serve where too few are shown."""
        super().__init__()
        has_moments = len(base_ND) >= 2
        self._base = _moments(base_ND) if has_moments else (base_ND.new_zeros(()), base_ND.new_ones(()))
        self._dim = base_ND.shape[1]
        self.show(base_ND[:0])

    @property
    def dim(self) -> int:
        """D."""
        return self._dim

    def __len__(self) -> int:
        """R."""
        return len(self._vectors_RD)

    def show(self, vectors_RD: Tensor) -> None:
        """Sets the rows 1 … R."""
        self._vectors_RD = vectors_RD
        self.mean_D, self.scale_D = _moments(vectors_RD) if len(vectors_RD) >= MIN_ROWS else self._base

    def take(self, rows_U: Tensor) -> Tensor:
        """vectors_UD; gradients lead through them."""
        return self._vectors_RD[rows_U - 1]

    def has(self, rows: Tensor) -> Tensor:
        """Every row but 0."""
        return rows > 0


def _moments(vectors_RD: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and 1/deviation of each number; a number that never varies is scaled to zero."""
    variance_D, mean_D = torch.var_mean(vectors_RD, dim=0, correction=0)
    is_constant_D = variance_D <= MIN_DEVIATION**2
    # The constant is taken out before the root, whose gradient at nought is not a number.
    scale_D = torch.where(is_constant_D, 0.0, torch.rsqrt(torch.where(is_constant_D, 1.0, variance_D)))
    return mean_D, scale_D


class TuningHead(nn.Module):
    """The network, and the tables it is shown vectors in."""

    def __init__(self, inputs: CtrInputs, base: Mapping[str, Tensor]) -> None:
        """Builds the network of [ctr_model]'s defaults.

        Args:
            inputs: the opened records.
            base: kind → vectors of the untuned student.
        """
        super().__init__()
        config = CtrModel()
        self._tables = {kind: LiveTable(base_ND) for kind, base_ND in base.items()}
        items, users, contexts = (self._tables[kind] for kind in ("items", "users", "contexts"))
        reads_contexts = bool(inputs.context_names) and len(base["contexts"]) > 0
        reader = SemanticReader(
            items,
            users,
            inputs.exposures_C,
            Fusion.of(config),
            (contexts, len(inputs.context_names)) if reads_contexts else None,
        )
        backbone = BACKBONES[Backbone.DIN](inputs, config, reader.num_outputs)
        self.network = CtrNetwork(backbone, reader, Injection.INPUT, config.weight_decay)

    def show(self, vectors: Mapping[str, Tensor]) -> None:
        """Sets the vectors that the next batches' rows name: kind → vectors_RD of rows 1 … R."""
        for kind, vectors_RD in vectors.items():
            self._tables[kind].show(vectors_RD)

    def forward(self, batch: Batch) -> Tensor:
        """logit_B."""
        return self.network(batch)

    def loss(self, batch: Batch) -> Tensor:
        """Mean training loss of a batch, as the arms have it."""
        return self.network.loss(batch)
