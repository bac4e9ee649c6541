"""The process vLLM runs in: reads one JSON request a line from stdin, writes one JSON completion a line to stdout.

vLLM binds threads to cores and keeps its memory until its process ends; in a process of its own, neither outlives the
stage. The engine runs inside this process rather than in two more of vLLM's, which would each import it again. Requests
join the running batch between two steps, and each completion is written in the step that ends it.
"""

import json
import os
import queue
import signal
import sys
import threading
from collections.abc import Mapping
from typing import IO, Any

ENVIRONMENT = {
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
}
"""Defaults; what the caller's environment says wins."""
CPU_BLOCK_TOKENS = 32
"""Of the key/value cache: the least that vLLM's attention kernel reads at full speed."""
Line = dict[str, Any] | None
"""A request, or None at the end of them."""


def main() -> None:
    """Serves requests until stdin ends and all are answered."""
    parent = os.getppid()
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    settings = json.loads(sys.stdin.readline())
    lines: queue.Queue[Line] = queue.Queue()
    threading.Thread(target=_read_lines, args=(lines, parent), daemon=True).start()
    engine = _load(settings).llm_engine
    _reply(replies, {"ready": True})
    _serve(engine, lines, replies, settings)


def _read_lines(lines: "queue.Queue[Line]", parent: int) -> None:
    """Reads until stdin ends: with the requests, or with the parent, killed perhaps, after which nobody needs us."""
    for line in sys.stdin:
        lines.put(json.loads(line))
    if os.getppid() != parent:
        # The engine's own processes too: they would go on for nobody.
        os.killpg(os.getpgrp(), signal.SIGKILL)
    lines.put(None)


def _serve(engine: Any, lines: "queue.Queue[Line]", replies: IO[str], settings: Mapping[str, Any]) -> None:
    is_open = True
    while is_open or engine.has_unfinished_requests():
        is_open = _admit(engine, lines, replies, settings) and is_open
        if engine.has_unfinished_requests():
            for result in engine.step():
                if result.finished:
                    _reply(replies, _completion(result))


def _admit(engine: Any, lines: "queue.Queue[Line]", replies: IO[str], settings: Mapping[str, Any]) -> bool:
    """Takes the requests that wait, or waits for one where there is nothing to do; False at their end."""
    while True:
        try:
            request = lines.get(block=not engine.has_unfinished_requests())
        except queue.Empty:
            return True
        if request is None:
            return False
        try:
            engine.add_request(request["id"], {"prompt_token_ids": request["ids"]}, _sampling(request, settings))
        except ValueError as error:
            _reply(replies, {"id": request["id"], "error": str(error).splitlines()[0]})


def _sampling(request: Mapping[str, Any], settings: Mapping[str, Any]) -> Any:
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams

    return SamplingParams(
        temperature=request["temperature"],
        seed=request["seed"] if request["temperature"] > 0 else None,
        max_tokens=request["max_tokens"],
        frequency_penalty=request["frequency_penalty"],
        structured_outputs=StructuredOutputsParams(json=settings["json_schema"]),
        output_kind=RequestOutputKind.FINAL_ONLY,
    )


def _completion(result: Any) -> dict[str, Any]:
    output = result.outputs[0]
    return {
        "id": result.request_id,
        "text": output.text,
        "prompt_tokens": len(result.prompt_token_ids),
        "output_tokens": len(output.token_ids),
        "is_complete": output.finish_reason == "stop",
    }


def _load(settings: Mapping[str, Any]) -> Any:
    import torch

    on_gpu = torch.cuda.is_available()
    if not on_gpu:
        os.environ["VLLM_CPU_KVCACHE_SPACE"] = str(max(round(settings["kv_cache_gib"]), 1))
    is_alone = settings["tensor_parallel"] == 1
    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0" if is_alone else "1")
    from vllm import LLM

    return LLM(
        model=settings["model"],
        dtype=settings["dtype"],
        max_model_len=settings["max_model_len"],
        max_num_seqs=settings["max_num_seqs"],
        seed=settings["seed"],
        enforce_eager=not on_gpu,
        enable_prefix_caching=True,
        # What prompts have in common is kept in whole blocks, and a CPU's default of 128 tokens is longer than most
        # of it: a fifth less to compute in float32.
        block_size=None if on_gpu else CPU_BLOCK_TOKENS,
        tensor_parallel_size=settings["tensor_parallel"],
        distributed_executor_backend="uni" if is_alone else "mp",
        gpu_memory_utilization=settings["gpu_memory_share"],
        disable_log_stats=True,
        structured_outputs_config={"backend": "xgrammar", "disable_any_whitespace": True},
    )


def _reply(replies: IO[str], reply: Mapping[str, Any]) -> None:
    replies.write(json.dumps(reply) + "\n")
    replies.flush()


if __name__ == "__main__":
    main()
