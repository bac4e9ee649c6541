"""The arms of the comparison (arms.toml): which backbone, whose vectors, through which module, taught by whom.

All semantic arms of one module are one architecture; only the numbers in the frozen tables differ (and, where an
encoder's vectors have another length, the width of the adaptors' input). A gain of `msd_frozen` over `raw_text` is the
teacher's, one over `shuffled_vectors` is meaning's, one over `din` alone could be anything.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from msd_models.vector_tables import VectorSource
from pipeline.config import CtrModel

NOT_OF_AN_ARM = ("arms", "arms_file", "seeds", "processes", "side_by_side", "threads", "checkpoint_seconds")
"""Settings of ctr_model that all arms share."""


class Backbone(StrEnum):
    """The collaborative models."""

    DEEPFM = "deepfm"
    DIN = "din"
    DCNV2 = "dcnv2"
    MLP = "mlp"


class Module(StrEnum):
    """How vectors are read."""

    NONE = "none"
    MSD = "msd"
    """Adaptors, frequency-guided masking and fusion of the relevant history items."""
    KAR = "kar"
    """Hybrid experts on the user's and the item's vector; the history's and the event's texts' are not read."""


class Injection(StrEnum):
    """Where what a module reads enters the backbone."""

    INPUT = "input"
    """Beside the fields, at the input of the dense layers."""
    HIGH = "high"
    """Beside the last hidden layer (ELEC)."""


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One model of the comparison."""

    name: str
    summary: str = ""
    backbone: Backbone = Backbone.DIN
    module: Module = Module.NONE
    vectors: VectorSource | None = None
    """Whose; None where module is none."""
    reads_user: bool = True
    """False leaves the user's vector out."""
    reads_context: bool = True
    """False leaves the vectors of the event's own texts out."""
    fuses_history: bool = True
    """False leaves e_item out."""
    injection: Injection = Injection.INPUT
    learns_from: str = ""
    """ELEC: the arm whose score and representation are distilled into this one."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Settings of [ctr_model] that this arm has a value of its own for."""
    space: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """What `msd tune` may try: setting → {low, high, log} or {choices}."""


def settings_of(arm: Arm, config: CtrModel) -> CtrModel:
    """The stage's settings with the arm's own laid over them."""
    return replace(config, **arm.settings)
