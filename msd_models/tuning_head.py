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


class LiveTable(nn.Module):
    """A table whose vectors are set anew for every batch; row 0 is a missing vector, row r+1 the r-th of the batch."""

    mean_D: Tensor
    scale_D: Tensor

    def __init__(self, base_ND: Tensor) -> None:
        """Takes vectors of the untuned student: their moments standardise the tuned ones as well."""
        super().__init__()
        deviation_D = base_ND.std(dim=0) if len(base_ND) > 1 else torch.ones_like(base_ND[:1].sum(dim=0))
        scale_D = torch.where(deviation_D > MIN_DEVIATION, 1 / deviation_D.clamp(min=MIN_DEVIATION), 0.0)
        self.register_buffer("mean_D", base_ND.sum(dim=0) / max(len(base_ND), 1), persistent=False)
        self.register_buffer("scale_D", scale_D, persistent=False)
        self._vectors_RD = base_ND[:0]

    @property
    def dim(self) -> int:
        """D."""
        return len(self.mean_D)

    def __len__(self) -> int:
        """R."""
        return len(self._vectors_RD)

    def show(self, vectors_RD: Tensor) -> None:
        """Sets the rows 1 … R."""
        self._vectors_RD = vectors_RD

    def take(self, rows_U: Tensor) -> Tensor:
        """vectors_UD; gradients lead through them."""
        return self._vectors_RD[rows_U - 1]

    def has(self, rows: Tensor) -> Tensor:
        """Every row but 0."""
        return rows > 0


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
