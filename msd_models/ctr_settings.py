"""Ranges of [ctr_model]: what no type can say, checked for every arm before the first one is trained."""

from collections.abc import Iterator
from enum import StrEnum

from msd_models.elec import Schedule
from msd_models.embedding_optimiser import EmbeddingOptimiser
from msd_models.semantics import EmptyFusion, FusedEvents, Mask
from pipeline.config import CtrModel
from pipeline.errors import ConfigError


class Amp(StrEnum):
    """Choices of amp."""

    AUTO = "auto"
    BFLOAT16 = "bfloat16"
    OFF = "off"


CHOICES: dict[str, type[StrEnum]] = {
    "mask": Mask,
    "fused_events": FusedEvents,
    "empty_fusion": EmptyFusion,
    "schedule": Schedule,
    "embedding_optimiser": EmbeddingOptimiser,
    "amp": Amp,
}
SHARES = ("dropout", "id_dropout", "vector_dropout")
COUNTS = (
    "embedding_dim",
    "adaptor_dim",
    "top_k",
    "expert_width",
    "batch_size",
    "max_epochs",
    "patience",
    "pool_rows",
    "processes",
    "threads",
)
AMOUNTS = (
    "cross_layers",
    "side_by_side",
    "shared_experts",
    "own_experts",
    "weight_decay",
    "score_weight",
    "representation_weight",
)
POSITIVE = ("learning_rate", "temperature", "mask_gamma", "mask_threshold")


def check_settings(arm: str, config: CtrModel) -> None:
    """Raises a ConfigError for the first setting that is out of its range.

    Args:
        arm: whose settings they are, named where there are several; empty: the stage's own.
        config: the stage's settings, with the arm's own laid over them.
    """
    for name, sentence in _problems(config):
        where = "" if not arm or config.arms == (arm,) else f" (arm {arm})"
        raise ConfigError(f"[ctr_model] {name} {sentence}{where}; for instance --set ctr_model.{name.split()[0]}=…")


def _problems(config: CtrModel) -> Iterator[tuple[str, str]]:
    for name in ("arms", "seeds"):
        if not getattr(config, name):
            yield name, f"is empty; name one {name[:-1]} at least"
    for name, choice in CHOICES.items():
        if getattr(config, name) not in list(choice):
            yield name, f"is '{getattr(config, name)}'; choose {', '.join(choice)}"
    if not 0 <= config.mask_min <= config.mask_max <= 1:
        yield "mask_min and mask_max", "must be shares, in this order"
    if not config.hidden or min(config.hidden) < 1:
        yield "hidden", "must name one width or more, each 1 or up"
    if config.shared_experts + config.own_experts < 1:
        yield "shared_experts and own_experts", "are both 0; choose one expert at least"
    yield from _numbers(config)


def _numbers(config: CtrModel) -> Iterator[tuple[str, str]]:
    values = {name: getattr(config, name) for name in (*SHARES, *COUNTS, *AMOUNTS, *POSITIVE)}
    for name, value in values.items():
        if name in SHARES and not 0 <= value < 1:
            yield name, f"is {value}; choose 0 or more, below 1"
        if name in COUNTS and value < 1:
            yield name, f"is {value}; choose 1 or more"
        if name in AMOUNTS and not value >= 0:
            yield name, f"is {value}; choose 0 or more"
        if name in POSITIVE and not value > 0:
            yield name, f"is {value}; choose a number above 0"
