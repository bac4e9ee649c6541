"""The process vLLM runs in: reads one JSON request a line from stdin, writes one JSON reply a line to stdout.

vLLM binds threads to cores and keeps its memory until its process ends; in a process of its own, neither outlives the
stage. The engine runs inside this process rather than in two more of vLLM's, which would each import it again.
"""

import ctypes
import json
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from typing import IO, Any

PR_SET_PDEATHSIG = 1
ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
}
"""Defaults; what the caller's environment says wins."""


def main() -> None:
    """Serves requests until stdin ends."""
    _die_with_parent()
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    requests = (json.loads(line) for line in sys.stdin)
    settings = next(requests)
    engine = _load(settings)
    _reply(replies, {"ready": True})
    for request in requests:
        _reply(replies, {"completions": _generate(engine, request, settings)})


def _load(settings: Mapping[str, Any]) -> Any:
    import torch

    if not torch.cuda.is_available():
        os.environ["VLLM_CPU_KVCACHE_SPACE"] = str(max(round(settings["kv_cache_gib"]), 1))
    from vllm import LLM

    return LLM(
        model=settings["model"],
        dtype=settings["dtype"],
        max_model_len=settings["max_model_len"],
        seed=settings["seed"],
        enforce_eager=not torch.cuda.is_available(),
        enable_prefix_caching=True,
        distributed_executor_backend="uni",
        gpu_memory_utilization=settings["gpu_memory_share"],
        disable_log_stats=True,
        structured_outputs_config={"backend": "xgrammar", "disable_any_whitespace": True},
    )


def _generate(engine: Any, request: Mapping[str, Any], settings: Mapping[str, Any]) -> list[dict[str, Any]]:
    from vllm import SamplingParams
    from vllm.sampling_params import StructuredOutputsParams

    sampling = SamplingParams(
        temperature=settings["temperature"],
        seed=settings["seed"],
        max_tokens=settings["max_output_tokens"],
        frequency_penalty=settings["frequency_penalty"],
        structured_outputs=StructuredOutputsParams(json=settings["json_schema"]),
    )
    prompts: Sequence[Any] = [{"prompt_token_ids": ids} for ids in request["prompts"]]
    made = []
    for result in engine.generate(prompts, sampling, use_tqdm=False):
        output = result.outputs[0]
        made.append(
            {
                "text": output.text,
                "prompt_tokens": len(result.prompt_token_ids),
                "output_tokens": len(output.token_ids),
                "is_complete": output.finish_reason == "stop",
            }
        )
    return made


def _reply(replies: IO[str], reply: Mapping[str, Any]) -> None:
    replies.write(json.dumps(reply) + "\n")
    replies.flush()


def _die_with_parent() -> None:
    """The kernel ends this process when its parent is gone, even when the parent was killed."""
    if sys.platform == "linux":
        parent = os.getppid()
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if parent == 1 or os.getppid() != parent:
            sys.exit(1)


if __name__ == "__main__":
    main()
