"""Tiny random language models cut in two, and the plain forward pass they are held against."""

import torch

from msd_models.sentence_encoder import pool
from msd_models.upper_layers import LowerLayers, UpperLayers, decoder_of
from pipeline.config import TunedStudent

CONFIG = TunedStudent(lora_rank=3, adapted_layers=1)
IDS = [[5, 9, 2, 7, 1, 3], [4, 4, 8], [6, 2, 2, 9, 9, 1, 7, 3, 8], [3, 1, 1, 2]]
NUM_INSTRUCTION = 2


def make_model(kind="Llama", num_layers=3, **changes):
    """A tiny random model, two heads of queries to one of keys."""
    import transformers

    sizes = {
        "vocab_size": 32,
        "hidden_size": 24,
        "intermediate_size": 40,
        "num_hidden_layers": num_layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 64,
        "pad_token_id": 0,
    }
    torch.manual_seed(0)
    settings = getattr(transformers, f"{kind}Config")(**{**sizes, **changes})
    return getattr(transformers, f"{kind}ForCausalLM")(settings).eval()


def stir(model):
    """Gives every adapter weights, as if it had been trained."""
    torch.manual_seed(1)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.requires_grad:
                weight.normal_(std=0.1)
    return model


def cut(model, adapted_layers, pooling):
    decoder = decoder_of(model)
    num_lower = decoder.config.num_hidden_layers - adapted_layers
    return decoder, LowerLayers(decoder, num_lower), UpperLayers(decoder, num_lower, pooling, NUM_INSTRUCTION)


def padded(ids=IDS):
    width = max(len(row) for row in ids)
    return torch.tensor([row + [0] * (width - len(row)) for row in ids]), torch.tensor([len(row) for row in ids])


def plain(decoder, pooling, ids=IDS):
    """One text at a time through the whole model."""
    vectors = []
    for row in ids:
        states = decoder(input_ids=torch.tensor([row]), use_cache=False).last_hidden_state
        mask = torch.ones(1, len(row), dtype=torch.long)
        mask[:, :NUM_INSTRUCTION] = 0
        vectors.append(pool(states, mask, pooling))
    return torch.cat(vectors)
