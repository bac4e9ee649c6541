"""The arms of the comparison: one line each, what collaborative model and whose vectors.

All semantic arms are one architecture; only the numbers in the frozen tables differ (and, where raw_text's encoder has
vectors of another length, the width of the adaptors' input). A gain of `msd_frozen` over `raw_text` is the teacher's,
one over `shuffled_vectors` is meaning's, one over `din` alone could be anything.
"""

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from msd_models.backbones import BACKBONES, Backbone, Shape
from msd_models.ctr_inputs import Batch, CtrInputs
from msd_models.semantics import FrozenTable, Fusion, Mask, Masking, SemanticReader
from msd_models.vector_tables import SemanticVectors, VectorSource, tables_of
from pipeline.config import CtrModel


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One model of the comparison."""

    backbone: Backbone
    vectors: VectorSource | None = None
    """None reads no text at all."""
    reads_user: bool = True
    """False leaves the user's vector out."""
    fuses_history: bool = True
    """False leaves e_item out."""


ARMS: dict[str, Arm] = {
    "deepfm": Arm(backbone=Backbone.DEEPFM),
    "din": Arm(backbone=Backbone.DIN),
    "random_vectors": Arm(backbone=Backbone.DIN, vectors=VectorSource.RANDOM),
    "shuffled_vectors": Arm(backbone=Backbone.DIN, vectors=VectorSource.SHUFFLED),
    "raw_text": Arm(backbone=Backbone.DIN, vectors=VectorSource.RAW_TEXT),
    "msd_frozen": Arm(backbone=Backbone.DIN, vectors=VectorSource.STUDENT),
}


class CtrNetwork(nn.Module):
    """A backbone and, where the arm has one, a semantic module beside it."""

    def __init__(self, backbone: nn.Module, reader: SemanticReader | None) -> None:
        """The backbone expects as many extra numbers as the reader gives."""
        super().__init__()
        self.backbone = backbone
        self.reader = reader

    def forward(self, batch: Batch) -> Tensor:
        """logit_B."""
        extra_BX = None if self.reader is None else self.reader(batch)
        return self.backbone(batch, extra_BX)


def build(name: str, seed: int, inputs: CtrInputs, vectors: SemanticVectors, config: CtrModel) -> CtrNetwork:
    """The untrained network of an arm, the same for the same arm and seed."""
    arm = ARMS[name]
    torch.manual_seed(seed)
    reader = None if arm.vectors is None else _reader(name, seed, inputs, vectors, config)
    shape = Shape(
        embedding_dim=config.embedding_dim,
        hidden=config.hidden,
        dropout=config.dropout,
        num_extra=0 if reader is None else reader.num_outputs,
    )
    return CtrNetwork(BACKBONES[arm.backbone](inputs, shape), reader)


def arm_seed(name: str, seed: int) -> int:
    """A seed of the arm's own, for what must not be shared between arms."""
    return int.from_bytes(hashlib.sha256(f"{name}:{seed}".encode()).digest()[:4])


def _reader(name: str, seed: int, inputs: CtrInputs, vectors: SemanticVectors, config: CtrModel) -> SemanticReader:
    arm = ARMS[name]
    assert arm.vectors is not None
    items, users = tables_of(arm.vectors, vectors, arm_seed(name, seed))
    train = inputs.split_rows["train"]
    fusion = Fusion(
        adaptor_dim=config.adaptor_dim,
        top_k=config.top_k,
        masking=Masking(
            mask=Mask(config.mask),
            minimum=config.mask_min,
            maximum=config.mask_max,
            gamma=config.mask_gamma,
            threshold=config.mask_threshold,
        ),
        reads_user=arm.reads_user,
        fuses_history=arm.fuses_history,
    )
    return SemanticReader(
        FrozenTable(items, inputs.item_row_N[train]),
        FrozenTable(users, inputs.user_row_N[train]),
        inputs.exposures_C,
        fusion,
    )
