"""Transformers' own forward over padded batches: reads whatever transformers reads, and is what others are held to."""

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from msd_models.engines import ModelReading
from msd_models.language_model import device, load_encoder
from msd_models.sentence_encoder import pool
from msd_models.token_batches import map_batches, pad, token_batches
from msd_models.upper_layers import LowerLayers, UpperLayers
from pipeline.errors import ConfigError

# B rows of a batch, T tokens, D dimensions, N texts


class PlainEngine:
    """A model of transformers, pooled."""

    def __init__(self, reading: ModelReading, model: Any | None = None) -> None:
        """Loads the model.

        Args:
            reading: how it reads.
            model: already loaded, without vocabulary head; None loads the folder's.

        Raises:
            ConfigError: the folder holds no model, or the dtype is int8.
        """
        if reading.dtype == torch.int8:
            raise ConfigError("engine = plain has no int8: choose engine = packed, or dtype = bfloat16")
        self.reading = reading
        self.model = load_encoder(reading.folder, reading.dtype).to(device()) if model is None else model

    def read(self, ids: Sequence[Sequence[int]]) -> np.ndarray:
        """Vectors [N, D] in float32."""
        vectors_ND = np.zeros((len(ids), int(self.model.config.hidden_size)), dtype=np.float32)
        batches = list(token_batches([len(row) for row in ids], self.reading.batch_tokens))
        made = map_batches(lambda rows: self._read_batch([ids[row] for row in rows]), batches, self.model.device)
        for rows, vectors_BD in zip(batches, made, strict=True):
            vectors_ND[rows] = vectors_BD
        return vectors_ND

    def close(self) -> None:
        """Drops the model."""
        self.model = None

    def lower_states(self, ids: Sequence[Sequence[int]]) -> Tensor:
        """States [N, D] of each prompt's last token as they enter the upper layers."""
        states_ND = torch.zeros(len(ids), int(self.model.config.hidden_size), dtype=self.reading.dtype)
        for rows in token_batches([len(row) for row in ids], self.reading.batch_tokens):
            last_B = torch.tensor([len(ids[row]) - 1 for row in rows])
            states_BTD = self._parts[0](pad([ids[row] for row in rows], 0)[0]).cpu()
            states_ND[rows] = states_BTD[torch.arange(len(rows)), last_B]
        return states_ND

    @torch.inference_mode()
    def upper_vectors(self, sequences: Sequence[Tensor]) -> np.ndarray:
        """Vectors [N, D] in float32 of sequences of states."""
        vectors_ND = np.zeros((len(sequences), int(self.model.config.hidden_size)), dtype=np.float32)
        for rows in token_batches([len(row) for row in sequences], self.reading.batch_tokens):
            states_BTD = torch.nn.utils.rnn.pad_sequence([sequences[row] for row in rows], batch_first=True)
            lengths_B = torch.tensor([len(sequences[row]) for row in rows])
            vectors_ND[rows] = self._parts[1](states_BTD, lengths_B).cpu().numpy()
        return vectors_ND

    @cached_property
    def _parts(self) -> tuple[LowerLayers, UpperLayers]:
        num_lower = len(self.model.layers) - self.reading.num_upper
        upper = UpperLayers(self.model, num_lower, self.reading.pooling, num_instruction=0)
        return LowerLayers(self.model, num_lower), upper

    @torch.inference_mode()
    def _read_batch(self, ids: list[Sequence[int]]) -> np.ndarray:
        """A causal model needs no mask for padding on the right: no real token sees what stands after it."""
        ids_BT, mask_BT = pad(ids, self.model.config.pad_token_id or 0)
        hidden_BTD = self.model(input_ids=ids_BT.to(self.model.device), use_cache=False).last_hidden_state
        mask_BT[:, : len(self.reading.instruction)] = 0
        return pool(hidden_BTD, mask_BT.to(self.model.device), self.reading.pooling).cpu().numpy()
