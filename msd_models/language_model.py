"""Language models as plain Hugging Face folders, whatever they came from: a built-in name or a path.

The built-in SmolLM2-135M-Instruct comes as a quantised GGUF, which no training library saves again: it is unpacked once
into a bfloat16 Llama folder in the cache (half a minute, 270 MB), which vLLM, the trainer and the encoders all read.
"""

import hashlib
import io
import os
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import Any

import torch

from pipeline import assets
from pipeline.errors import ConfigError
from pipeline.machine import multiplies_bfloat16
from pipeline.progress import note
from pipeline.storage import file_digest

SMOLLM2 = "smollm2-135m-instruct"
MINILM = "all-minilm-l6-v2"
TINY_RANDOM = "tiny-random"
"""Not a folder but a recipe, for students only: see `msd_models.student_layers`."""
CONVERSION_VERSION = 1
CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def model_folder(name: str) -> Path:
    """The Hugging Face folder of a built-in model or of a path.

    Raises:
        ConfigError: neither a built-in name nor a folder with a config.json.
    """
    if name == SMOLLM2:
        return assets.made_once(f"{SMOLLM2}-{CONVERSION_VERSION}", _convert_smollm2)
    if name == MINILM:
        return assets.locate(MINILM)
    folder = Path(name).expanduser()
    if not (folder / "config.json").is_file():
        found = "a folder without config.json" if folder.is_dir() else "neither a folder nor a built-in model"
        raise ConfigError(
            f"model '{name}' is {found}; wanted {SMOLLM2}, {MINILM} or the path of a Hugging Face model folder"
        )
    return folder.resolve()


def folder_digest(folder: Path) -> str:
    """SHA-256 over the names and bytes of a model folder's files: what the model is, wherever it lies."""
    summed = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder)
        if path.is_file() and not any(part.startswith(".") for part in relative.parts):
            summed.update(f"{relative}\0{file_digest(path)}\n".encode())
    return summed.hexdigest()


def resolve_dtype(name: str) -> torch.dtype:
    """The torch dtype of a setting; `auto` is bfloat16 where the machine multiplies it natively, else float32.

    Raises:
        ConfigError: an unknown name.
    """
    if name == "auto":
        native = torch.cuda.is_available() or multiplies_bfloat16()
        return torch.bfloat16 if native else torch.float32
    if name not in DTYPES:
        raise ConfigError(f"dtype '{name}' is unknown; choose auto, {', '.join(DTYPES)}")
    return DTYPES[name]


def device() -> torch.device:
    """The GPU where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@contextmanager
def cpu_threads(count: int) -> Iterator[None]:
    """Runs torch on this many threads, 0 for as many as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def load_tokenizer(folder: Path) -> Any:
    """The folder's fast tokenizer, padding token set."""
    from transformers import AutoTokenizer

    tokenizer = _load(AutoTokenizer, folder)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_causal(folder: Path, dtype: torch.dtype) -> Any:
    """The folder's causal language model in evaluation mode, on the CPU."""
    from transformers import AutoModelForCausalLM

    return _load(AutoModelForCausalLM, folder, dtype=dtype).eval()


def load_encoder(folder: Path, dtype: torch.dtype) -> Any:
    """The folder's model without any head: hidden states only, no logits over the vocabulary."""
    from transformers import AutoModel

    return _load(AutoModel, folder, dtype=dtype).eval()


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Keeps transformers' own bars and chatter off the terminal."""
    from transformers.utils import logging

    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        logging.enable_progress_bar()


def _load(kind: Any, folder: Path, **options: Any) -> Any:
    """What transformers reads from the folder; a folder it cannot read is named."""
    try:
        with quiet_transformers():
            return kind.from_pretrained(folder, local_files_only=True, **options)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ConfigError(
            f"{folder} is no model folder that can be loaded: {reason}; wanted weights and a tokenizer in"
            " Hugging Face's layout"
        ) from error


def _convert_smollm2(folder: Path) -> None:
    """Copies the dequantised weights into a plain Llama, since a quantised one refuses to be saved or trained."""
    from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, LlamaConfig, LlamaForCausalLM

    source = assets.locate("smollm2-135m-instruct-gguf")
    gguf = next(source.glob("*.gguf")).name
    note("unpacking SmolLM2-135M-Instruct, once: about half a minute")
    with quiet_transformers(), redirect_stderr(io.StringIO()):
        quantised = AutoModelForCausalLM.from_pretrained(source, gguf_file=gguf, dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=gguf)
    settings = quantised.config.to_dict()
    for key in ("quantization_config", "_name_or_path", "architectures"):
        settings.pop(key, None)
    plain = LlamaForCausalLM(LlamaConfig(**settings))
    plain.load_state_dict(quantised.state_dict())
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    plain.generation_config = GenerationConfig(eos_token_id=end, pad_token_id=end)
    tokenizer.chat_template = CHATML
    with quiet_transformers():
        plain.to(torch.bfloat16).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
