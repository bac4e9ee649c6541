"""Users as sequences of behaviours: each item read once by the lower layers, the history by the upper ones alone.

After BAHE (Geng et al., 2024, "Breaking the Length Barrier: LLM-Enhanced CTR Prediction in Long Textual User
Behaviors"): the lower layers turn each atomic behaviour into one state, that of its prompt's last token, and the upper
layers run over those states instead of over tokens. An item that stands in a thousand histories is then read once, and
a history costs as many positions as it has items. What was shown and not clicked is another behaviour than what was
clicked, read in the words the text mode marks it with.
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from msd_models.engines import LayeredEngine

# N histories or texts, D dimensions

SKIPPED = " (skipped)"
"""Stands after the text of an item that was shown and not clicked; part of the space id."""
CACHED_STATES = 200_000
"""States of distinct behaviours kept between calls, the least lately used dropped first: 230 MB at 576 dimensions."""


@dataclass(frozen=True, kw_only=True)
class Behaviours:
    """What a user is read as."""

    profile: str
    """Its text; empty where nothing is known."""
    items: tuple[str, ...]
    """Texts, oldest first."""
    labels: tuple[int, ...]
    """1 where the user clicked."""

    def texts(self) -> list[str]:
        """One text a position: the profile if there is one, then the items; a user without either is one empty text."""
        items = [text if label else f"{text}{SKIPPED}" for text, label in zip(self.items, self.labels, strict=True)]
        return [*([self.profile] if self.profile else []), *items] or [""]


class BehaviourReader:
    """Histories to vectors, with a bounded cache of the states of behaviours."""

    def __init__(
        self,
        engine: LayeredEngine,
        prompts: Callable[[Sequence[str]], list[list[int]]],
        max_states: int = CACHED_STATES,
    ) -> None:
        """Reads nothing yet.

        Args:
            engine: whose layers run.
            prompts: token ids of texts.
            max_states: kept between calls.
        """
        self.engine = engine
        self.prompts = prompts
        self.max_states = max_states
        self.states: OrderedDict[str, Tensor] = OrderedDict()

    def encode(self, histories: Sequence[Behaviours]) -> np.ndarray:
        """Vectors [N, D] in float32."""
        texts = [history.texts() for history in histories]
        states = self._states(list(dict.fromkeys(text for row in texts for text in row)))
        return self.engine.upper_vectors([torch.stack([states[text] for text in row]) for row in texts])

    def _states(self, texts: list[str]) -> dict[str, Tensor]:
        missing = [text for text in texts if text not in self.states]
        read = self.engine.lower_states(self.prompts(missing)) if missing else ()
        found = dict(zip(missing, read, strict=True))
        for text in texts:
            if text in self.states:
                self.states.move_to_end(text)
                found[text] = self.states[text]
            else:
                self.states[text] = found[text]
        while len(self.states) > self.max_states:
            self.states.popitem(last=False)
        return found
