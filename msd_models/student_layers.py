"""The student before training: a base model with fewer of its layers, or a tiny random Llama for tests.

Evenly spaced layers, the first and the last among them, end lower than the first or the outermost ones: hold-out NLL
3.6 against 4.0-4.5 on MovieLens-100K with 6 of 30 layers. The base model's token embeddings stay as they are: a few
hundred rows say nothing about most of the vocabulary, and a third of the training time goes with them.
"""

from collections.abc import Iterable
from typing import Any

import torch

from msd_models.language_model import TINY_RANDOM, load_causal, load_tokenizer, model_folder
from pipeline.config import Student
from pipeline.errors import ConfigError

TINY_HIDDEN = 96
TINY_HEADS = 3
"""Of 32 each: vLLM on a CPU ends without a word on heads of 24."""
TINY_VOCABULARY = 2048
TINY_END = "<|end|>"


def initial_student(config: Student, texts: Iterable[str]) -> tuple[Any, Any]:
    """(model, tokenizer) of an untrained student in float32.

    Args:
        config: base_model and num_layers; base_model `tiny-random` is a Llama of width 96 with random weights.
        texts: what the tokenizer of `tiny-random` is fitted on; unused otherwise.

    Raises:
        ConfigError: the base model does not exist, or has fewer layers than wanted.
    """
    if config.num_layers < 1:
        raise ConfigError(f"student.num_layers is {config.num_layers}; wanted 1 or more")
    if config.base_model == TINY_RANDOM:
        return _tiny_random(config, texts)
    folder = model_folder(config.base_model)
    student = _fewer_layers(load_causal(folder, torch.float32), config)
    student.get_input_embeddings().requires_grad_(False)
    return student, load_tokenizer(folder)


def with_adapters(model: Any, config: Student) -> Any:
    """The model, or the frozen model with low-rank adapters on its linear layers: W = W0 + (alpha / rank)·B·A.

    B starts at nought, so that training starts from the very model it is given.

    Raises:
        ConfigError: a negative rank.
    """
    if config.lora_rank < 0:
        raise ConfigError(f"[student] lora_rank is {config.lora_rank}; wanted 0 (every weight) or a rank of 1 or more")
    if config.lora_rank == 0:
        return model
    from peft import LoraConfig, get_peft_model

    # The adapters' random halves come from the setting's seed and leave the generator of the caller alone.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        adapters = LoraConfig(
            task_type="CAUSAL_LM",
            r=config.lora_rank,
            lora_alpha=config.lora_alpha,
            target_modules="all-linear",
        )
        return get_peft_model(model, adapters)


def without_adapters(model: Any) -> Any:
    """The plain model of the same outputs: adapters, where there are any, added to the weights they stand beside."""
    return model.merge_and_unload() if hasattr(model, "merge_and_unload") else model


def kept_layers(num_base: int, num_kept: int) -> list[int]:
    """Indices of evenly spaced layers: the first and the last are kept; a single one is the first."""
    if num_kept == 1:
        return [0]
    return [round(position * (num_base - 1) / (num_kept - 1)) for position in range(num_kept)]


def _fewer_layers(base: Any, config: Student) -> Any:
    from transformers import AutoModelForCausalLM

    num_base = base.config.num_hidden_layers
    if config.num_layers > num_base:
        raise ConfigError(
            f"student.num_layers is {config.num_layers}, but {config.base_model} has {num_base} layers;"
            f" use --set student.num_layers={num_base} or fewer"
        )
    kept = kept_layers(num_base, config.num_layers)
    settings = base.config.to_dict() | {"num_hidden_layers": len(kept)}
    if settings.get("layer_types"):
        settings["layer_types"] = [settings["layer_types"][layer] for layer in kept]
    student = AutoModelForCausalLM.from_config(type(base.config).from_dict(settings), dtype=torch.float32)
    new_number = {old: new for new, old in enumerate(kept)}
    weights = {}
    for name, tensor in base.state_dict().items():
        head, layers, rest = name.partition("model.layers.")
        if not layers:
            weights[name] = tensor
            continue
        number, _, parameter = rest.partition(".")
        if int(number) in new_number:
            weights[f"{head}{layers}{new_number[int(number)]}.{parameter}"] = tensor
    student.load_state_dict(weights)
    student.generation_config = base.generation_config
    return student.eval()


def _tiny_random(config: Student, texts: Iterable[str]) -> tuple[Any, Any]:
    from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=_byte_pairs(texts), eos_token=TINY_END, pad_token=TINY_END, clean_up_tokenization_spaces=False
    )
    settings = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=TINY_HIDDEN,
        intermediate_size=2 * TINY_HIDDEN,
        num_hidden_layers=config.num_layers,
        num_attention_heads=TINY_HEADS,
        num_key_value_heads=TINY_HEADS,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        model = LlamaForCausalLM(settings)
    model.generation_config = GenerationConfig(eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id)
    return model.eval(), tokenizer


def _byte_pairs(texts: Iterable[str]) -> Any:
    """A byte-level vocabulary fitted on the texts: any other text still has tokens, its bytes."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=TINY_VOCABULARY,
        special_tokens=[TINY_END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(sorted(set(texts)), trainer)
    return tokenizer
