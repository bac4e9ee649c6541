"""ELEC (arXiv 2509.07594): a network that reads no vector, taught by one that does.

The gain network is a collaborative model with what a semantic module reads beside its last hidden layer. The vanilla
network is one without; it learns the gain network's scores and its representation, and is served alone:

L = BCE(y_v) + a·T²·KL(sg(y_g/T) ‖ y_v/T) + b·‖P·r_v − sg(r_g)‖²/d [+ BCE(y_g) where both learn side by side].
"""

# Letters: B batch, H width of the vanilla network's last hidden layer, d that of the gain network's.

from dataclasses import dataclass
from enum import StrEnum
from typing import Self

import torch
from torch import Tensor, nn

from msd_models.backbones import CollaborativeModel
from msd_models.ctr_inputs import Batch
from msd_models.ctr_network import CtrNetwork
from pipeline.config import CtrModel


class Schedule(StrEnum):
    """When the gain network is trained."""

    GAIN_FIRST = "gain_first"
    """Before, to its end, as an arm of its own; its weights are loaded and stay."""
    JOINT = "joint"
    """Beside the vanilla network, from its own loss alone."""


@dataclass(frozen=True, kw_only=True)
class Lesson:
    """Weights of the distillation."""

    temperature: float
    """T."""
    score_weight: float
    """a."""
    representation_weight: float
    """b."""
    schedule: Schedule

    @classmethod
    def of(cls, config: CtrModel) -> Self:
        """The settings of ctr_model that are about ELEC."""
        return cls(
            temperature=config.temperature,
            score_weight=config.score_weight,
            representation_weight=config.representation_weight,
            schedule=Schedule(config.schedule),
        )


class TaughtNetwork(CtrNetwork):
    """The vanilla network, and while it is trained the gain network it learns from."""

    def __init__(self, backbone: CollaborativeModel, gain: CtrNetwork, lesson: Lesson, weight_decay: float) -> None:
        """The gain network is frozen where it has been trained before."""
        super().__init__(backbone, weight_decay=weight_decay)
        self.lesson = lesson
        self.gain = gain
        self.projection = nn.Linear(backbone.num_high, gain.backbone.num_high, bias=False)
        """P."""
        if lesson.schedule is Schedule.GAIN_FIRST:
            gain.requires_grad_(requires_grad=False).eval()

    @property
    def needs_gain(self) -> bool:
        """Whether a trained gain network must be loaded before training."""
        return self.lesson.schedule is Schedule.GAIN_FIRST

    @property
    def learns_from_vectors(self) -> bool:
        """The gain network reads them."""
        return self.gain.learns_from_vectors

    def load_gain(self, state: dict[str, Tensor]) -> None:
        """Takes the served_state of the trained gain network."""
        self.gain.load_served(state)

    def train(self, mode: bool = True) -> Self:
        """A gain network that does not learn stays in evaluation."""
        super().train(mode)
        if self.lesson.schedule is Schedule.GAIN_FIRST:
            self.gain.eval()
        return self

    def loss(self, batch: Batch) -> Tensor:
        """Mean training loss: the vanilla network's own, both levels of the distillation, jointly the gain's own."""
        output = self.read(batch)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.needs_gain):
            taught = self.gain.read(batch)
        own = self.loss_of(output, batch) + (0 if self.needs_gain else self.gain.loss_of(taught, batch))
        scores = score_distance(output.logit_B.float(), taught.logit_B.float(), self.lesson.temperature)
        distance = representation_distance(self.projection(output.high_BH), taught.high_BH)
        return own + self.lesson.score_weight * scores + self.lesson.representation_weight * distance

    def served_state(self) -> dict[str, Tensor]:
        """The vanilla network alone."""
        taught_only = ("gain.", "projection.")
        return {name: value for name, value in self.state_dict().items() if not name.startswith(taught_only)}

    def load_served(self, state: dict[str, Tensor]) -> None:
        """Takes what served_state gave and leaves the rest as it is."""
        rest = {name: value for name, value in self.state_dict().items() if name not in self.served_state()}
        self.load_state_dict(rest | state)


def score_distance(logit_B: Tensor, taught_B: Tensor, temperature: float) -> Tensor:
    """T²·KL(σ(y_g/T) ‖ σ(y_v/T)), the mean over the batch; no gradient leads to the gain network's scores."""
    wanted_B = taught_B.detach() / temperature
    share_B = torch.sigmoid(wanted_B)
    cross = nn.functional.binary_cross_entropy_with_logits(logit_B / temperature, share_B)
    entropy = nn.functional.binary_cross_entropy_with_logits(wanted_B, share_B)
    return temperature**2 * (cross - entropy)


def representation_distance(projected_BD: Tensor, taught_BD: Tensor) -> Tensor:
    """‖P·r_v − sg(r_g)‖²/d, the mean over the batch."""
    return nn.functional.mse_loss(projected_BD.float(), taught_BD.detach().float())
