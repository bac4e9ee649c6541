"""A CTR network: a backbone, what a semantic module reads beside it, and one linear layer on top.

What the module reads enters at the input of the dense layers or, as in ELEC, beside the last hidden layer.
"""

# Letters: B batch, H width of the last hidden layer, X numbers of the semantic module.

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from msd_models.arms import Injection
from msd_models.backbones import CollaborativeModel, Reading
from msd_models.ctr_inputs import Batch
from msd_models.kar import KnowledgeReader
from msd_models.semantics import SemanticReader


@dataclass(frozen=True, kw_only=True)
class Output:
    """What a network says of a batch, and what it was made from."""

    logit_B: Tensor
    high_BH: Tensor
    """r, the representation below the output layer."""
    codes_BFE: Tensor
    """The field embeddings that were read."""


class CtrNetwork(nn.Module):
    """Backbone, semantic module and output layer."""

    def __init__(
        self,
        backbone: CollaborativeModel,
        reader: SemanticReader | KnowledgeReader | None = None,
        injection: Injection = Injection.INPUT,
        weight_decay: float = 0.0,
    ) -> None:
        """Takes the parts.

        Args:
            backbone: with room for the reader's numbers at its input, where they enter there.
            reader: a semantic module; None reads no vectors.
            injection: where its numbers enter.
            weight_decay: weight in the loss of the squared length of the field embeddings a row reads.
        """
        assert reader is not None or injection is Injection.INPUT
        super().__init__()
        self.backbone = backbone
        self.reader = reader
        self.weight_decay = weight_decay
        num_high = backbone.num_high
        num_joined = num_high + (reader.num_outputs if reader is not None else 0)
        self.high = nn.Linear(num_joined, num_high) if injection is Injection.HIGH else None
        self.head = nn.Linear(num_high, 1)

    @property
    def reads_vectors(self) -> bool:
        """Whether the score depends on vectors."""
        return self.reader is not None

    @property
    def learns_from_vectors(self) -> bool:
        """Whether the loss depends on vectors, even where the score does not."""
        return self.reads_vectors

    def forward(self, batch: Batch) -> Tensor:
        """logit_B: what is served."""
        return self.read(batch).logit_B

    def loss(self, batch: Batch) -> Tensor:
        """Mean training loss of a batch, a scalar in float32."""
        return self.loss_of(self.read(batch), batch)

    def loss_of(self, output: Output, batch: Batch) -> Tensor:
        """Mean training loss of what the network says of a batch."""
        entropy = nn.functional.binary_cross_entropy_with_logits(output.logit_B.float(), batch.click_B)
        if not self.weight_decay:
            return entropy
        return entropy + self.weight_decay * output.codes_BFE.float().square().sum() / len(batch)

    def read(self, batch: Batch) -> Output:
        """The logit and what it was made from."""
        extra_BX = None if self.reader is None else self.reader(batch)
        reading: Reading = self.backbone.represent(batch, extra_BX if self.high is None else None)
        high_BH = reading.high_BH
        if self.high is not None and extra_BX is not None:
            # ELEC's r_g = relu(W [r_c; z]).
            high_BH = torch.relu(self.high(torch.cat([high_BH, extra_BX], dim=1)))
        logit_B = self.head(high_BH).squeeze(1)
        if reading.shallow_B is not None:
            logit_B = logit_B + reading.shallow_B
        return Output(logit_B=logit_B, high_BH=high_BH, codes_BFE=reading.codes_BFE)

    def served_state(self) -> dict[str, Tensor]:
        """The weights and moments that scoring needs, by name."""
        return dict(self.state_dict())

    def load_served(self, state: dict[str, Tensor]) -> None:
        """Takes what served_state gave."""
        self.load_state_dict(state)
