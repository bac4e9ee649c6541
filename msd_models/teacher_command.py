"""How a vLLM server is called so that its answers are those of a model loaded in process: same limits, same schema."""

import importlib.util
import json
import os
import sys
from dataclasses import dataclass
from typing import Any

import torch

from msd_models.language_model import load_tokenizer, model_folder, resolve_dtype
from msd_models.vllm_generator import context_tokens, rows_at_once
from msd_models.vllm_worker import ENVIRONMENT
from pipeline.config import TeacherOutputs
from pipeline.errors import ConfigError, MissingExtra
from pipeline.teacher_address import is_own


@dataclass(frozen=True, kw_only=True)
class Served:
    """A server about to be started."""

    command: list[str]
    variables: dict[str, str]
    facts: dict[str, Any]
    """What makes it this server and not another: the model's name and how it is run."""


def served_by(config: TeacherOutputs) -> Served:
    """The server that settings ask for.

    Raises:
        ConfigError: the teacher is not a served one, or its model cannot be served.
        MissingExtra: vllm is not installed.
    """
    _check(config)
    folder = model_folder(config.model)
    if not load_tokenizer(folder).chat_template:
        raise ConfigError(
            f"{config.model} has no chat template, by which a server sets the turns of a question; use"
            " teacher_outputs.generator=vllm, which loads it in process"
        )
    facts = {
        "model": config.model,
        "folder": str(folder),
        "dtype": str(resolve_dtype(config.dtype)).removeprefix("torch."),
        "context_tokens": context_tokens(folder, config),
        "tensor_parallel": config.tensor_parallel,
        "data_parallel": config.data_parallel,
    }
    options = {
        "--model": folder,
        "--served-model-name": config.model,
        "--dtype": facts["dtype"],
        "--max-model-len": facts["context_tokens"],
        "--max-num-seqs": rows_at_once(config),
        "--seed": config.seed,
        "--tensor-parallel-size": config.tensor_parallel,
        "--data-parallel-size": config.data_parallel,
        "--gpu-memory-utilization": config.gpu_memory_share,
        # A model folder's own sampling defaults would come on top of what each request asks for.
        "--generation-config": "vllm",
        "--structured-outputs-config": json.dumps({"backend": "xgrammar", "disable_any_whitespace": True}),
    }
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-m", "vllm.entrypoints.openai.api_server"]
    command += [str(word) for pair in options.items() for word in pair]
    command += ["--enable-prefix-caching", "--disable-uvicorn-access-log"]
    command += [] if torch.cuda.is_available() else ["--enforce-eager"]
    return Served(command=command, variables=_variables(config), facts=facts)


def _variables(config: TeacherOutputs) -> dict[str, str]:
    chosen = {**ENVIRONMENT, "VLLM_LOGGING_LEVEL": "INFO"}
    if not torch.cuda.is_available():
        chosen["VLLM_CPU_KVCACHE_SPACE"] = str(max(round(config.kv_cache_gib), 1))
    return {name: os.environ.get(name, value) for name, value in chosen.items()}


def _check(config: TeacherOutputs) -> None:
    if config.generator != "openai" or not is_own(config.endpoint):
        found = f"generator is {config.generator}" if config.generator != "openai" else f"endpoint is {config.endpoint}"
        raise ConfigError(
            f"teacher_outputs.{found}, which asks no server of this work folder; wanted --set"
            " teacher_outputs.generator=openai and an empty teacher_outputs.endpoint"
        )
    if importlib.util.find_spec("vllm") is None:
        raise MissingExtra("msd teacher needs vllm: install the 'cpu' or 'gpu' extra")
    if min(config.data_parallel, config.tensor_parallel) < 1:
        raise ConfigError("teacher_outputs: data_parallel and tensor_parallel must be 1 or more")
