"""Vectors of a step's distinct texts, computed live, and the loss's way back into the adapters.

Texts are read in parts of like length. As long as all parts fit into the token budget they keep their graphs and one
backward pass goes through them. Beyond it vectors are first computed without a graph, the loss gives their gradient,
and each part is computed again, with its graph, to hand its share of that gradient on (gradient caching, GradCache,
arXiv 2101.06983): the same gradient for a second forward pass, in memory that the budget bounds.
"""

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from msd_models.token_batches import token_batches

# U distinct texts of a step, B texts of a part, T tokens, D dimensions

PART_TOKENS = 4096
"""Padded tokens of one forward pass: small enough that texts of like length meet, large enough for full speed."""


class States(Protocol):
    """Hidden states of texts, wherever they are kept."""

    lengths_N: Tensor

    def read(self, texts_B: Tensor) -> tuple[Tensor, Tensor]:
        """(states_BTD, lengths_B) of some texts."""


Upper = Callable[[Tensor, Tensor], Tensor]
"""(states_BTD, lengths_B) → vectors_BD."""


class LiveVectors:
    """The upper layers over stored states."""

    def __init__(self, upper: Upper, states: States, batch_tokens: int) -> None:
        """Takes the trainable part, what it reads, and how many tokens may keep a graph at once."""
        self.upper = upper
        self.states = states
        self.batch_tokens = batch_tokens

    @torch.no_grad()
    def encode(self, texts_U: Tensor) -> Tensor:
        """vectors_UD without a graph."""
        parts = self._parts(texts_U)
        return self._in_order(parts, [self._part(texts_U, part) for part in parts])

    def backward(self, texts_U: Tensor, loss_of: Callable[[Tensor], Tensor]) -> Tensor:
        """Adds the loss's gradients to whatever made the vectors and whatever read them; returns the loss.

        Args:
            texts_U: distinct texts.
            loss_of: the loss as a function of vectors_UD; called once.
        """
        parts = self._parts(texts_U)
        if self._tokens(texts_U, parts) <= self.batch_tokens or len(parts) == 1:
            loss = loss_of(self._in_order(parts, [self._part(texts_U, part) for part in parts]))
            torch.autograd.backward(loss)
            return loss.detach()
        vectors_UD = self.encode(texts_U).requires_grad_()
        loss = loss_of(vectors_UD)
        torch.autograd.backward(loss)
        assert vectors_UD.grad is not None
        for part in parts:
            torch.autograd.backward(self._part(texts_U, part), vectors_UD.grad[part])
        return loss.detach()

    def _parts(self, texts_U: Tensor) -> list[Tensor]:
        lengths = self.states.lengths_N[texts_U].tolist()
        parts = token_batches(lengths, min(PART_TOKENS, self.batch_tokens))
        return [torch.tensor(part) for part in parts]

    def _tokens(self, texts_U: Tensor, parts: list[Tensor]) -> int:
        lengths_U = self.states.lengths_N[texts_U]
        return sum(len(part) * int(lengths_U[part].max()) for part in parts)

    def _part(self, texts_U: Tensor, part: Tensor) -> Tensor:
        return self.upper(*self.states.read(texts_U[part]))

    @staticmethod
    def _in_order(parts: list[Tensor], vectors: list[Tensor]) -> Tensor:
        """vectors_UD in the order of the texts."""
        back_U = torch.argsort(torch.cat(parts))
        return torch.cat(vectors)[back_U.to(vectors[0].device)]
