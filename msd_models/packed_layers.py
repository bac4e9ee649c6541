"""The layers of a Llama-like decoder over texts that lie one after the other in one matrix, without padding.

Linear layers see all tokens of a batch as one matrix. What every prompt begins with is read once: its keys and values
stand before those of each text, which is exact, since nothing in a causal model's prefix depends on what follows. Where
one state a text is wanted, the last layer asks one query a text, and its dense part runs for those alone.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from msd_models.packed_attention import KeysValues, Layout, attend, rotate
from msd_models.packed_linear import project

# S tokens of a batch, B texts, C tokens of the common prefix, D dimensions, Q queried tokens, H heads,
# G heads of keys and values, P dimensions of a head

DECODER_LAYERS = ("LlamaDecoderLayer", "MistralDecoderLayer", "Qwen2DecoderLayer", "Qwen3DecoderLayer")
FIXED_ROTATIONS = ("default", "linear", "llama3", "yarn")
"""Rotations that do not depend on how long a text is."""


def unpackable(decoder: Any, max_tokens: int) -> str | None:
    """Why a model cannot be read by packed layers; None when it can."""
    layers = getattr(decoder, "layers", None)
    if not layers or any(type(layer).__name__ not in DECODER_LAYERS for layer in layers):
        return f"a {type(decoder).__name__} is not built like Llama"
    config = decoder.config
    if config.hidden_act != "silu":
        return f"its activation is {config.hidden_act}, not silu"
    window = getattr(config, "sliding_window", None)
    if window is not None and getattr(config, "use_sliding_window", True) and window < max_tokens:
        return f"its attention slides over {window} tokens, fewer than max_tokens = {max_tokens}"
    kind = (getattr(config, "rope_parameters", None) or {}).get("rope_type", "default")
    return None if kind in FIXED_ROTATIONS else f"its rotation is '{kind}'"


class PackedLayers:
    """Consecutive layers, perhaps with the last norm, and the prefix they were shown."""

    def __init__(self, layers: Sequence["PackedLayer"], norm: nn.Module | None, rotary: Any) -> None:
        """Shares the layers.

        Args:
            layers: in order.
            norm: after them; None for states as they enter the next layer.
            rotary: transformers' own table of rotations.
        """
        self.layers, self.norm, self.rotary = layers, norm, rotary
        self.prefix: list[KeysValues | None] = [None] * len(layers)
        self.num_before = 0

    def remember(self, states_CD: Tensor) -> None:
        """Reads what all later texts begin with."""
        layout = Layout.of([len(states_CD)], states_CD.device)
        angles = self._angles(states_CD, layout)
        for number, layer in enumerate(self.layers):
            keys_values = layer.keys_values(states_CD, angles)
            self.prefix[number] = (keys_values[0].transpose(0, 1), keys_values[1].transpose(0, 1))
            states_CD = layer(states_CD, layout, angles, None, None)
        self.num_before = len(states_CD)

    def __call__(self, states_SD: Tensor, layout: Layout, pooling: str) -> Tensor:
        """vectors_BD of the texts, one by one in the layout's order, in float32: pooled `last` or by `mean`."""
        angles = self._angles(states_SD, layout)
        for layer, prefix in zip(self.layers[:-1], self.prefix[:-1], strict=True):
            states_SD = layer(states_SD, layout, angles, prefix, None)
        rows = layout.last_B if pooling == "last" else None
        states_QD = self.layers[-1](states_SD, layout, angles, self.prefix[-1], rows)
        if self.norm is not None:
            states_QD = self.norm(states_QD)
        return states_QD.float() if pooling == "last" else layout.mean(states_QD.float())

    def _angles(self, states_SD: Tensor, layout: Layout) -> tuple[Tensor, Tensor]:
        """Cosine and sine [S, 1, P] of each token's place, after the prefix."""
        cosine_1SP, sine_1SP = self.rotary(states_SD, position_ids=(layout.place_S + self.num_before).unsqueeze(0))
        return cosine_1SP[0].unsqueeze(1), sine_1SP[0].unsqueeze(1)


class PackedLayer:
    """One layer with its weights laid out for the processor."""

    def __init__(self, layer: Any, dtype: torch.dtype) -> None:
        """Copies the weights.

        Args:
            layer: of transformers, one of DECODER_LAYERS.
            dtype: of the matrix products.
        """
        attention, dense = layer.self_attn, layer.mlp
        self.head_dim = int(attention.head_dim)
        self.scale = float(attention.scaling)
        self.query_norm, self.key_norm = getattr(attention, "q_norm", None), getattr(attention, "k_norm", None)
        self.norm, self.dense_norm = layer.input_layernorm, layer.post_attention_layernorm
        self.query = project([attention.q_proj], dtype)
        self.key_value = project([attention.k_proj, attention.v_proj], dtype)
        self.output = project([attention.o_proj], dtype)
        self.gate, self.up, self.down = (
            project([part], dtype) for part in (dense.gate_proj, dense.up_proj, dense.down_proj)
        )

    def __call__(
        self,
        states_SD: Tensor,
        layout: Layout,
        angles: tuple[Tensor, Tensor],
        prefix: KeysValues | None,
        rows_Q: Tensor | None,
    ) -> Tensor:
        """States [Q, D] after this layer of the tokens rows_Q, each the last of its text, or of all tokens."""
        normed_SD = _normed(self.norm, states_SD)
        key_SGP, value_SGP = self._keys_values(normed_SD, angles)
        if rows_Q is not None:
            states_SD, normed_SD = states_SD[rows_Q], normed_SD[rows_Q]
            angles = (angles[0][rows_Q], angles[1][rows_Q])
        query_QHP = self._headed(self.query(normed_SD), self.query_norm)
        query_QHP = rotate(query_QHP, angles)
        read_QD = attend(query_QHP, (key_SGP, value_SGP), layout, prefix, self.scale)
        states_QD = self.output.plus(read_QD, states_SD)
        normed_QD = _normed(self.dense_norm, states_QD)
        return self.down.plus(self.up.times(normed_QD, self.gate.silu(normed_QD)), states_QD)

    def keys_values(self, states_SD: Tensor, angles: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """key_SGP, rotated, and value_SGP."""
        return self._keys_values(_normed(self.norm, states_SD), angles)

    def _keys_values(self, normed_SD: Tensor, angles: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        key_SI, value_SI = self.key_value(normed_SD).chunk(2, dim=1)
        return rotate(self._headed(key_SI, self.key_norm), angles), self._headed(value_SI, None)

    def _headed(self, x_SI: Tensor, norm: nn.Module | None) -> Tensor:
        x_SHP = x_SI.view(len(x_SI), -1, self.head_dim)
        return x_SHP if norm is None else norm(x_SHP)


def _normed(norm: Any, states_SD: Tensor) -> Tensor:
    """The norm's arithmetic in one kernel."""
    return nn.functional.rms_norm(states_SD, norm.weight.shape, norm.weight, norm.variance_epsilon)
