"""A language model cut in two: lower layers that never change, and upper layers with low-rank adapters.

The lower part turns token ids into hidden states once; the upper part turns those into vectors at every step. With
pooling `last` only one state of the last layer is ever used, so that its queries, its attention and its dense layers
run for the last token alone, and only keys and values for all: a sixteenth of the layer's arithmetic for SmolLM2-135M.
"""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from msd_models.sentence_encoder import pool
from pipeline.config import TunedStudent
from pipeline.errors import ConfigError

# B texts of a part, T tokens, D dimensions, H heads, G heads of keys and values, N queries to each of those,
# P dimensions of a head

PLAIN_LAYERS = ("LlamaDecoderLayer", "MistralDecoderLayer", "Qwen2DecoderLayer")
"""Layers whose attention is projections, rotation and a softmax, and nothing besides; others run as a whole."""
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 2e-2, torch.float16: 5e-3}
"""Of the check that two parts are the whole, as a share of a vector's length. Single numbers are no measure: a language
model has some a hundred times as large as the rest, and their rounding in bfloat16 is as large as the rest."""


def with_upper_adapters(model: Any, config: TunedStudent) -> Any:
    """The causal language model with adapters W = W0 + (alpha / rank)·B·A on its upper layers; B starts at nought.

    Raises:
        ConfigError: more layers than the model has, or a rank below 1.
    """
    from peft import LoraConfig, get_peft_model

    num_layers = model.config.num_hidden_layers
    if not 1 <= config.adapted_layers <= num_layers:
        raise ConfigError(
            f"[tuned_student] adapted_layers is {config.adapted_layers}; the student has {num_layers} layers:"
            f" choose 1 to {num_layers}"
        )
    if config.lora_rank < 1:
        raise ConfigError(f"[tuned_student] lora_rank is {config.lora_rank}; choose 1 or more")
    upper = [module for layer in decoder_of(model).layers[-config.adapted_layers :] for module in layer.modules()]
    adapters = LoraConfig(
        task_type="CAUSAL_LM",
        r=config.lora_rank,
        lora_alpha=config.lora_alpha,
        target_modules=[
            name
            for name, module in model.named_modules()
            if isinstance(module, nn.Linear) and any(module is one for one in upper)
        ],
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        return get_peft_model(model, adapters).eval()


def decoder_of(model: Any) -> Any:
    """The stack of layers inside a causal language model, with or without adapters: it gives hidden states.

    Raises:
        ConfigError: the architecture does not name its parts as Llama does.
    """
    causal = model.get_base_model() if hasattr(model, "get_base_model") else model
    decoder = getattr(causal, causal.base_model_prefix, None)
    if not all(hasattr(decoder, part) for part in ("layers", "norm")):
        raise ConfigError(
            f"the student is a {type(causal).__name__}, whose layers cannot be run apart; leave it as it is:"
            " --set tuned_student.max_steps=0"
        )
    return decoder


class LowerLayers:
    """Token ids to the hidden states that enter the first adapted layer."""

    def __init__(self, decoder: Any, num_lower: int) -> None:
        """Shares the decoder's weights."""
        self.part = _with_layers(decoder, 0, num_lower, nn.Identity())
        self.device = decoder.device
        self.dtype = decoder.dtype
        self.dimension = int(decoder.config.hidden_size)

    @torch.inference_mode()
    def __call__(self, ids_BT: Tensor) -> Tensor:
        """states_BTD; padding stands on the right, where no real token sees it."""
        return self.part(input_ids=ids_BT.to(self.device), use_cache=False).last_hidden_state


class UpperLayers:
    """Hidden states under the adapted layers to pooled vectors."""

    def __init__(self, decoder: Any, num_lower: int, pooling: str, num_instruction: int) -> None:
        """Shares the decoder's weights and adapters.

        Args:
            decoder: as `decoder_of` finds it.
            num_lower: layers below the adapted ones.
            pooling: last or mean.
            num_instruction: tokens at the beginning that `mean` leaves out.
        """
        layers = decoder.layers
        self.device = decoder.device
        self.pooling = pooling
        self.num_instruction = num_instruction
        self.rotary = getattr(decoder, "rotary_emb", None)
        self.norm = decoder.norm
        self.last = layers[-1] if pooling == "last" and type(layers[-1]).__name__ in PLAIN_LAYERS else None
        num_whole = len(layers) - (self.last is not None)
        norm = nn.Identity() if self.last is not None else decoder.norm
        self.whole = _with_layers(decoder, num_lower, num_whole, norm) if num_whole > num_lower else None

    def __call__(self, states_BTD: Tensor, lengths_B: Tensor) -> Tensor:
        """vectors_BD in float32; text b is the first lengths_B[b] tokens."""
        states_BTD, lengths_B = states_BTD.to(self.device), lengths_B.to(self.device)
        if self.whole is not None:
            states_BTD = self.whole(inputs_embeds=states_BTD, use_cache=False).last_hidden_state
        if self.last is not None:
            return self.norm(_last_token(self.last, self.rotary, states_BTD, lengths_B)).float()
        place_T = torch.arange(states_BTD.shape[1], device=self.device)
        mask_BT = (place_T < lengths_B.unsqueeze(1)) & (place_T >= self.num_instruction)
        return pool(states_BTD, mask_BT.long(), self.pooling)


@torch.no_grad()
def check_parts(decoder: Any, lower: LowerLayers, upper: UpperLayers, ids: Sequence[Sequence[int]]) -> None:
    """Reads some texts with the whole model and with the two parts.

    Raises:
        ConfigError: the vectors differ: a model of this kind does something between or around its layers.
    """
    width = max(len(row) for row in ids)
    ids_BT = torch.tensor([[*row, *[row[-1]] * (width - len(row))] for row in ids], device=decoder.device)
    lengths_B = torch.tensor([len(row) for row in ids])
    whole_BTD = decoder(input_ids=ids_BT, use_cache=False).last_hidden_state
    place_T = torch.arange(width)
    mask_BT = (place_T < lengths_B.unsqueeze(1)) & (place_T >= upper.num_instruction)
    wanted_BD = pool(whole_BTD, mask_BT.long().to(decoder.device), upper.pooling)
    found_BD = upper(lower(ids_BT).clone(), lengths_B)
    wanted_BD = wanted_BD.float()
    difference = float(((found_BD - wanted_BD).norm(dim=1) / wanted_BD.norm(dim=1)).max())
    if not difference <= TOLERANCE[decoder.dtype]:
        raise ConfigError(
            f"the student's layers do not give the same vectors apart as together (a difference of {difference:.2g}"
            " of their length); leave it as it is: --set tuned_student.max_steps=0"
        )


def _with_layers(decoder: Any, first: int, end: int, norm: nn.Module) -> Any:
    """The same decoder with layers first … end−1 alone; weights are shared, nothing is copied."""
    part = copy.copy(decoder)
    part._modules = dict(decoder._modules)
    part.layers = nn.ModuleList(decoder.layers[first:end])
    part.norm = norm
    part.config = copy.deepcopy(decoder.config)
    part.config.num_hidden_layers = end - first
    if getattr(part.config, "layer_types", None):
        part.config.layer_types = list(decoder.config.layer_types[first:end])
    return part


def _last_token(layer: Any, rotary: Any, states_BTD: Tensor, lengths_B: Tensor) -> Tensor:
    """The layer's state of each text's last token: the layer's own modules, applied to what that state depends on."""
    attention = layer.self_attn
    rows, last_B = torch.arange(len(states_BTD), device=states_BTD.device), lengths_B - 1
    place_T = torch.arange(states_BTD.shape[1], device=states_BTD.device)
    normed_BTD = layer.input_layernorm(states_BTD)
    head = (-1, attention.head_dim)
    query_BHP = attention.q_proj(normed_BTD[rows, last_B]).unflatten(-1, head)
    key_BTGP = attention.k_proj(normed_BTD).unflatten(-1, head)
    value_BTGP = attention.v_proj(normed_BTD).unflatten(-1, head)
    cosine_1TP, sine_1TP = rotary(states_BTD, position_ids=place_T.unsqueeze(0))
    query_BHP = _rotated(query_BHP, cosine_1TP[0, last_B, None], sine_1TP[0, last_B, None])
    key_BTGP = _rotated(key_BTGP, cosine_1TP.unsqueeze(2), sine_1TP.unsqueeze(2))
    # One query a text: two small products beat a fused attention, which is made for as many queries as keys.
    query_BGNP = query_BHP.view(len(rows), key_BTGP.shape[2], -1, attention.head_dim)
    score_BGNT = query_BGNP @ key_BTGP.permute(0, 2, 3, 1) * attention.scaling
    score_BGNT = score_BGNT.masked_fill((place_T >= lengths_B.unsqueeze(1))[:, None, None], -torch.inf)
    weight_BGNT = score_BGNT.softmax(dim=-1, dtype=torch.promote_types(score_BGNT.dtype, torch.float32))
    read_BGNP = weight_BGNT.to(value_BTGP.dtype) @ value_BTGP.transpose(1, 2)
    state_BD = states_BTD[rows, last_B] + attention.o_proj(read_BGNP.flatten(1))
    return state_BD + layer.mlp(layer.post_attention_layernorm(state_BD))


def _rotated(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Rotary positions in the halves' layout of Llama."""
    first, second = x.chunk(2, dim=-1)
    return x * cosine + torch.cat([-second, first], dim=-1) * sine
