"""What every embedding engine takes and gives: token ids of whole prompts in, pooled float32 vectors out.

Engines differ in speed alone: each is held to transformers' float32 forward by a test.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

# N texts, D dimensions


@dataclass(frozen=True, kw_only=True)
class ModelReading:
    """A model folder and how it reads."""

    folder: Path
    dtype: torch.dtype
    """Of the forward pass; int8: weights and activations of the linear layers, on a CPU."""
    pooling: str
    """`last`, or `mean` over what stands after the instruction."""
    instruction: tuple[int, ...]
    """Token ids every prompt begins with."""
    max_tokens: int
    batch_tokens: int
    num_upper: int = 0
    """Upper layers that run over a user's behaviours; 0 where users are read as texts."""


class Engine(Protocol):
    """A loaded model that turns prompts into vectors."""

    def read(self, ids: Sequence[Sequence[int]]) -> np.ndarray:
        """Vectors [N, D] in float32 of prompts, each beginning with the instruction."""

    def close(self) -> None:
        """Gives the model's memory back."""


class LayeredEngine(Engine, Protocol):
    """An engine whose upper layers can be run on their own."""

    def lower_states(self, ids: Sequence[Sequence[int]]) -> torch.Tensor:
        """States [N, D] of each prompt's last token as they enter the upper layers."""

    def upper_vectors(self, sequences: Sequence[torch.Tensor]) -> np.ndarray:
        """Vectors [N, D] in float32 of sequences of such states [T, D], read as if they were tokens 0 … T-1."""
