"""The packed engine: Llama-like models without padding, the instruction read once."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from msd_models.engines import ModelReading
from msd_models.language_model import device, load_encoder
from msd_models.packed_attention import Layout
from msd_models.packed_layers import PackedLayer, PackedLayers, unpackable
from msd_models.token_batches import map_batches, packed_batches
from pipeline.errors import ConfigError

# B texts of a batch, S their tokens, N texts, D dimensions

CPU_TOKENS = 512
"""Tokens of a batch on a CPU at most: what lies between two layers then stays in a core's own cache."""


class PackedEngine:
    """A decoder with its weights laid out anew, pooled."""

    def __init__(self, reading: ModelReading) -> None:
        """Loads the model and reads the instruction.

        Raises:
            ConfigError: the folder holds no model, or one that is not built like Llama.
        """
        loaded = torch.bfloat16 if reading.dtype == torch.int8 else reading.dtype
        decoder = load_encoder(reading.folder, loaded).to(device())
        reason = unpackable(decoder, reading.max_tokens)
        if reason is not None:
            raise ConfigError(f"engine = packed cannot read {reading.folder.name}: {reason}; choose engine = plain")
        self.reading = reading
        self.device = decoder.device
        self.batch_tokens = min(reading.batch_tokens, CPU_TOKENS) if self.device.type == "cpu" else reading.batch_tokens
        self.embedding_VD = decoder.embed_tokens.weight.detach()
        with torch.inference_mode():
            layers = [PackedLayer(layer, reading.dtype) for layer in decoder.layers]
            num_lower = len(layers) - reading.num_upper
            self.whole = PackedLayers(layers, decoder.norm, decoder.rotary_emb)
            self.lower = PackedLayers(layers[:num_lower], None, decoder.rotary_emb)
            self.upper = PackedLayers(layers[num_lower:], decoder.norm, decoder.rotary_emb)
            if reading.instruction:
                self.whole.remember(self._embedded(reading.instruction))
            self.lower.prefix = self.whole.prefix[:num_lower]
            self.lower.num_before = self.whole.num_before

    def read(self, ids: Sequence[Sequence[int]]) -> np.ndarray:
        """Vectors [N, D] in float32."""
        return self._over_tokens(self.whole, ids, self.reading.pooling).numpy()

    def lower_states(self, ids: Sequence[Sequence[int]]) -> Tensor:
        """States [N, D] of each prompt's last token as they enter the upper layers."""
        return self._over_tokens(self.lower, ids, "last")

    def upper_vectors(self, sequences: Sequence[Tensor]) -> np.ndarray:
        """Vectors [N, D] in float32 of sequences of states."""

        def states(rows: list[int]) -> Tensor:
            return torch.cat([sequences[row] for row in rows]).to(self.device, self.embedding_VD.dtype)

        return self._batched(self.upper, states, [len(row) for row in sequences], self.reading.pooling).numpy()

    def close(self) -> None:
        """Drops the weights."""
        del self.whole, self.lower, self.upper, self.embedding_VD

    def _over_tokens(self, layers: PackedLayers, ids: Sequence[Sequence[int]], pooling: str) -> Tensor:
        first = len(self.reading.instruction)

        def states(rows: list[int]) -> Tensor:
            return self._embedded([token for row in rows for token in ids[row][first:]])

        return self._batched(layers, states, [len(row) - first for row in ids], pooling)

    def _batched(
        self, layers: PackedLayers, states: Callable[[list[int]], Tensor], lengths: list[int], pooling: str
    ) -> Tensor:
        @torch.inference_mode()
        def work(rows: list[int]) -> Tensor:
            layout = Layout.of([lengths[row] for row in rows], self.device)
            return layers(states(rows), layout, pooling).cpu()

        vectors_ND = torch.zeros(len(lengths), self.embedding_VD.shape[1])
        batches = list(packed_batches(lengths, self.batch_tokens))
        for rows, vectors_BD in zip(batches, map_batches(work, batches, self.device), strict=True):
            vectors_ND[rows] = vectors_BD
        return vectors_ND

    def _embedded(self, ids: Sequence[int]) -> Tensor:
        return self.embedding_VD[torch.tensor(ids, device=self.device)]
