"""The process vLLM pools in: prompts from stdin, a list a JSON line; their vectors to stdout, base64 of float32."""

import base64
import json
import os
import signal
import sys
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from msd_models.vllm_worker import ENVIRONMENT

# N texts, T tokens, D dimensions


def main() -> None:
    """Serves requests until stdin ends."""
    parent = os.getppid()
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    # What vLLM prints goes to stderr: stdout is for replies alone.
    os.dup2(2, 1)
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    settings = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    model = _load(settings)
    replies.write('{"ready": true}\n')
    replies.flush()
    for line in sys.stdin:
        request = json.loads(line)
        vectors_ND = _vectors(model, request["ids"], settings)
        text = base64.b64encode(vectors_ND.astype("<f4").tobytes()).decode("ascii")
        replies.write(json.dumps({"id": request["id"], "vectors": text}) + "\n")
        replies.flush()


def _vectors(model: Any, ids: Sequence[Sequence[int]], settings: Mapping[str, Any]) -> np.ndarray:
    from vllm import PoolingParams

    prompts = [{"prompt_token_ids": row} for row in ids]
    if settings["pooling"] == "last":
        made = model.encode(prompts, PoolingParams(use_activation=False), pooling_task="embed", use_tqdm=False)
        return np.stack([output.outputs.data.float().numpy() for output in made])
    first = settings["num_instruction"]
    made = model.encode(prompts, PoolingParams(use_activation=False), pooling_task="token_embed", use_tqdm=False)
    return np.stack([output.outputs.data.float()[first:].mean(dim=0).numpy() for output in made])


def _load(settings: Mapping[str, Any]) -> Any:
    import torch

    on_gpu = torch.cuda.is_available()
    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    if not on_gpu:
        os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
    from vllm import LLM
    from vllm.config import PoolerConfig

    is_last = settings["pooling"] == "last"
    return LLM(
        model=settings["model"],
        runner="pooling",
        dtype=settings["dtype"],
        max_model_len=settings["max_model_len"],
        enforce_eager=not on_gpu,
        # States of all tokens are wanted for a mean, and vLLM does not keep those of a prefix it has seen.
        enable_prefix_caching=is_last,
        disable_log_stats=True,
        pooler_config=PoolerConfig(task="embed", seq_pooling_type="LAST", use_activation=False)
        if is_last
        else PoolerConfig(task="token_embed", tok_pooling_type="ALL", use_activation=False),
    )


def _end_with(parent: int) -> None:
    """Ends this process with the one that started it: killed, it cannot close our stdin while the model works."""
    while os.getppid() == parent:
        threading.Event().wait(1.0)
    os.killpg(os.getpgrp(), signal.SIGKILL)


if __name__ == "__main__":
    main()
