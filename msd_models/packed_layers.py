"""The layers of a Llama-like decoder over texts that lie one after the other in one matrix, without padding.

Linear layers see all tokens of a batch as one matrix. What every prompt begins with is read once: its keys and values
stand before those of each text, which is exact, since nothing in a causal model's prefix depends on what follows. Where
one state a text is wanted, the last layer asks one query a text, and its dense part runs for those alone. The sum that
runs through all layers is kept in float32 whatever the products are in: it costs nothing, and in bfloat16 its rounding
is half of a vector's distance to float32.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from msd_models.packed_attention import KeysValues, Layout, Rotation, attend, interleaved
from msd_models.packed_linear import Weights, project, side_by_side, weights_of

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

    def __init__(self, layers: Sequence["PackedLayer"], norm: Any, rotary: Any) -> None:
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
        rotation = self._rotation(states_CD, layout)
        states_CD = states_CD.to(torch.float32, copy=True)
        for number, layer in enumerate(self.layers):
            key_CGP, value_CGP = layer.keys_values(layer.normed(states_CD), rotation)
            self.prefix[number] = (key_CGP.transpose(0, 1), value_CGP.transpose(0, 1))
            states_CD = layer(states_CD, layout, rotation, None, None)
        self.num_before = len(states_CD)

    def __call__(self, states_SD: Tensor, layout: Layout, pooling: str) -> Tensor:
        """vectors_BD of the texts, one by one in the layout's order, in float32: pooled `last` or by `mean`."""
        rotation = self._rotation(states_SD, layout)
        states_SD = states_SD.to(torch.float32, copy=True)
        for layer, prefix in zip(self.layers[:-1], self.prefix[:-1], strict=True):
            states_SD = layer(states_SD, layout, rotation, prefix, None)
        rows = layout.last_B if pooling == "last" else None
        states_QD = self.layers[-1](states_SD, layout, rotation, self.prefix[-1], rows)
        if self.norm is not None:
            states_QD = _unit(states_QD, self.norm.variance_epsilon) * self.norm.weight.float()
        return states_QD if pooling == "last" else layout.mean(states_QD)

    def _rotation(self, states_SD: Tensor, layout: Layout) -> Rotation:
        """Of each token's place, after the prefix."""
        places_1S = (layout.place_S + self.num_before).unsqueeze(0)
        cosine_1SP, sine_1SP = self.rotary(states_SD.float(), position_ids=places_1S)
        half = cosine_1SP.shape[2] // 2
        angle_S1R = torch.complex(cosine_1SP[0, :, None, :half], sine_1SP[0, :, None, :half])
        return Rotation(queries_S1R=angle_S1R * self.layers[0].scale, keys_S1R=angle_S1R)


class PackedLayer:
    """One layer with its weights laid out for the processor."""

    def __init__(self, layer: Any, dtype: torch.dtype) -> None:
        """Copies the weights.

        Args:
            layer: of transformers, one of DECODER_LAYERS.
            dtype: of the matrix products.
        """
        attention, dense = layer.self_attn, layer.mlp
        self.dtype = attention.q_proj.weight.dtype
        self.head_dim = int(attention.head_dim)
        self.scale = float(attention.scaling)
        before, between = layer.input_layernorm, layer.post_attention_layernorm
        self.epsilon, self.dense_epsilon = float(before.variance_epsilon), float(between.variance_epsilon)
        self.query_norm, self.key_norm = (
            _HeadNorm(getattr(attention, name), self.head_dim) if hasattr(attention, name) else None
            for name in ("q_norm", "k_norm")
        )
        query, key, value = (
            weights_of(part, before) for part in (attention.q_proj, attention.k_proj, attention.v_proj)
        )
        query, key = self._woven(query), self._woven(key)
        self.query = project(query, dtype)
        # Rounded to eight bits, keys and the gated states (outliers that one scale a token cannot hold) cost three
        # quarters of what int8 loses; they are a third of the arithmetic.
        self.key_value = project(side_by_side(key, value), self.dtype)
        self.output = project(weights_of(attention.o_proj), dtype)
        self.gate = project(weights_of(dense.gate_proj, between), dtype)
        self.up = project(weights_of(dense.up_proj, between), dtype)
        self.down = project(weights_of(dense.down_proj), self.dtype)

    def __call__(
        self,
        states_SD: Tensor,
        layout: Layout,
        rotation: Rotation,
        prefix: KeysValues | None,
        rows_Q: Tensor | None,
    ) -> Tensor:
        """States [Q, D] after this layer of the tokens rows_Q, each the last of its text, or of all tokens in place."""
        normed_SD = self.normed(states_SD)
        keys_values = self.keys_values(normed_SD, rotation)
        if rows_Q is not None:
            states_SD, normed_SD = states_SD[rows_Q], normed_SD[rows_Q]
        query_QHP = rotation.of_queries(self._heads(self.query(normed_SD), self.query_norm), rows_Q)
        states_SD += self.output(attend(query_QHP, keys_values, layout, prefix))
        normed_SD = _unit(states_SD, self.dense_epsilon).to(self.dtype)
        states_SD += self.down(self.up.times(normed_SD, self.gate.silu(normed_SD)))
        return states_SD

    def normed(self, states_SD: Tensor) -> Tensor:
        """What keys, values and queries are made of."""
        return _unit(states_SD, self.epsilon).to(self.dtype)

    def keys_values(self, normed_SD: Tensor, rotation: Rotation) -> KeysValues:
        """key_SGP, rotated, and value_SGP."""
        key_SI, value_SI = self.key_value(normed_SD).chunk(2, dim=1)
        return rotation.of_keys(self._heads(key_SI, self.key_norm)), self._heads(value_SI, None)

    def _heads(self, x_SI: Tensor, norm: "_HeadNorm | None") -> Tensor:
        x_SHP = x_SI.view(len(x_SI), -1, self.head_dim)
        return x_SHP if norm is None else norm(x_SHP)

    def _woven(self, weights: Weights) -> Weights:
        weight_OI, bias_O = weights
        return interleaved(weight_OI, self.head_dim), None if bias_O is None else interleaved(bias_O, self.head_dim)


class _HeadNorm:
    """RMSNorm of each head, as Qwen3 has it, woven like the heads."""

    def __init__(self, norm: Any, head_dim: int) -> None:
        """Takes the weights of transformers' norm."""
        self.weight_P, self.epsilon = interleaved(norm.weight.detach(), head_dim), float(norm.variance_epsilon)

    def __call__(self, x_SHP: Tensor) -> Tensor:
        """Of the last dimension."""
        return nn.functional.rms_norm(x_SHP, self.weight_P.shape, self.weight_P, self.epsilon)


def _unit(states_SD: Tensor, epsilon: float) -> Tensor:
    """The states over the root of their mean square: RMSNorm without its weights, which stand in the next products."""
    length_S1 = torch.linalg.vector_norm(states_SD, dim=1, keepdim=True)
    return states_SD * torch.rsqrt(length_S1.square_().div_(states_SD.shape[1]).add_(epsilon))
