"""A language model under vLLM, offline: one or several copies, each in a process of its own that ends with this one.

A request that kills the engine must not cost the job: what was under way is asked again one by one, and the request
that kills a fresh engine alone is given up with its reason.
"""

import importlib.util
import os
import queue
from collections import deque
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from msd_models.answers import JSON_SCHEMA
from msd_models.generators import OVER_LONG, Completion, Fitted, Prompt, Request
from msd_models.language_model import folder_digest, load_tokenizer, model_folder, resolve_dtype
from msd_models.model_process import Event, ModelProcess
from msd_models.untrusted_text import fit_text
from pipeline.config import TeacherOutputs
from pipeline.errors import ConfigError, MissingExtra
from pipeline.progress import note

WORKER = ("-m", "msd_models.vllm_worker")
ENGINE_DIED = "engine died"
FIXED_TOKENS = 1024
"""Room for the template's words and the worked examples' answers."""
MAX_DEATHS = 3
"""Engines that may die one after the other without a completion between them: more is no matter of one row."""
CPU_ROWS, GPU_ROWS = 32, 256
"""Rows a model works on at once: on two cores 32 fill the processor, and a kill loses no more than that."""


class VllmGenerator:
    """Completions by a model under vLLM."""

    def __init__(self, config: TeacherOutputs, worker: tuple[str, ...] = WORKER) -> None:
        """Reads the tokenizer; the model is loaded with the first request.

        Args:
            config: model, copies and memory.
            worker: the arguments to Python that run a worker.

        Raises:
            MissingExtra: vllm is not installed.
            ConfigError: the model does not exist, or a setting is out of its range.
        """
        if importlib.util.find_spec("vllm") is None:
            raise MissingExtra("teacher_outputs needs vllm: install the 'cpu' or 'gpu' extra")
        if min(config.data_parallel, config.tensor_parallel) < 1:
            raise ConfigError("teacher_outputs: data_parallel and tensor_parallel must be 1 or more")
        self.config = config
        self.worker = worker
        self.folder = model_folder(config.model)
        self.tokenizer = load_tokenizer(self.folder)
        self.rows_at_once = rows_at_once(config)
        self.capacity = self.rows_at_once * config.data_parallel
        self.events: queue.Queue[Event] = queue.Queue()
        self.copies: list[ModelProcess | None] = [None] * config.data_parallel
        self.requests: dict[str, dict[str, Any]] = {}
        self.suspects: deque[str] = deque()
        """Requests that were under way when an engine died: each is asked again alone."""
        self.on_trial: str | None = None
        self.held: deque[str] = deque()
        """Requests that came while suspects are tried."""
        self.deaths_in_a_row = 0
        self.given_up: list[tuple[str, Completion]] = []

    def identity(self) -> Mapping[str, Any]:
        """The bytes of the model folder."""
        return {"weights": self._digest}

    def fit(self, text: str, max_tokens: int, *, keep_end: bool) -> Fitted:
        """The text in at most max_tokens tokens, with nothing in it that the model takes for a command."""
        return fit_text(self.tokenizer, text, max_tokens, keep_end=keep_end)

    def count_tokens(self, prompt: Prompt) -> int:
        """Tokens of the prompt under the model's chat template."""
        return len(self._chat_ids(prompt))

    def submit(self, request: Request) -> None:
        """Hands the request to the copy with the least to do."""
        ids = self._chat_ids(request.prompt)
        if len(ids) + request.sampling.max_tokens > self._context:
            self.given_up.append((request.id, _failed(OVER_LONG)))
            return
        self.requests[request.id] = {"id": request.id, "ids": ids, **vars(request.sampling)}
        if self.suspects or self.on_trial is not None:
            self.held.append(request.id)
        else:
            self._send(request.id)

    def collect(self) -> list[tuple[str, Completion]]:
        """Waits for completions; an engine that died is started again."""
        done, self.given_up = self.given_up, []
        while not done and self.requests:
            events = [self.events.get()]
            while not self.events.empty():
                events.append(self.events.get())
            for copy, line in events:
                done += self._handle(copy, line)
            self._try_next()
        return done + self._take_given_up()

    def close(self) -> None:
        """Ends the processes, which gives their memory back."""
        for copy in self.copies:
            if copy is not None:
                copy.stop()
        self.copies = [None] * len(self.copies)

    def _handle(self, copy: ModelProcess, line: dict[str, Any] | None) -> list[tuple[str, Completion]]:
        if line is None:
            self._bury(copy)
            return []
        if "ready" in line:
            copy.is_ready = True
            return []
        key = str(line.pop("id"))
        copy.in_flight.discard(key)
        del self.requests[key]
        self.on_trial = None if self.on_trial == key else self.on_trial
        self.deaths_in_a_row = 0
        return [(key, _failed(line["error"]) if "error" in line else Completion(**line))]

    def _bury(self, copy: ModelProcess) -> None:
        """A copy has ended: before it was ready nothing can be done, after that its requests are tried one by one."""
        failure = copy.failure()
        number = self.copies.index(copy)
        self.copies[number] = None
        copy.in_flight, lost = set(), copy.in_flight
        copy.stop()
        self.deaths_in_a_row += 1
        if not copy.is_ready or self.deaths_in_a_row > MAX_DEATHS:
            raise failure
        note(f"teacher_outputs: {failure}; {len(lost)} rows are asked again one by one")
        if self.on_trial in lost:
            culprit, self.on_trial = self.on_trial, None
            assert culprit is not None
            del self.requests[culprit]
            lost.discard(culprit)
            self.given_up.append((culprit, _failed(ENGINE_DIED)))
        self.suspects.extend(sorted(lost))

    def _try_next(self) -> None:
        """One suspect at a time, alone in an engine; after the last one everything is as before."""
        while self.held and not self.suspects and self.on_trial is None:
            self._send(self.held.popleft())
        idle = all(copy is None or not copy.in_flight for copy in self.copies)
        if self.suspects and self.on_trial is None and idle:
            self.on_trial = self.suspects.popleft()
            self._send(self.on_trial)

    def _take_given_up(self) -> list[tuple[str, Completion]]:
        taken, self.given_up = self.given_up, []
        return taken

    def _send(self, key: str) -> None:
        loads = [len(copy.in_flight) if copy is not None else 0 for copy in self.copies]
        number = loads.index(min(loads))
        copy = self.copies[number] or self._start(number)
        copy.send(self.requests[key])

    def _start(self, number: int) -> ModelProcess:
        copy = ModelProcess(self.worker, self._settings(), _share(number, self.config), self.events)
        self.copies[number] = copy
        return copy

    def _settings(self) -> dict[str, Any]:
        return {
            "model": str(self.folder),
            "dtype": str(resolve_dtype(self.config.dtype)).removeprefix("torch."),
            "max_model_len": self._context,
            "max_num_seqs": self.rows_at_once,
            "tensor_parallel": self.config.tensor_parallel,
            "seed": self.config.seed,
            "kv_cache_gib": self.config.kv_cache_gib,
            "gpu_memory_share": self.config.gpu_memory_share,
            "json_schema": JSON_SCHEMA,
        }

    @cached_property
    def _digest(self) -> str:
        return folder_digest(self.folder)

    @cached_property
    def _context(self) -> int:
        return context_tokens(self.folder, self.config)

    def _chat_ids(self, prompt: Prompt) -> list[int]:
        if not self.tokenizer.chat_template:
            shown = "".join(f"{asked}\n{answered}\n\n" for asked, answered in prompt.examples)
            return list(self.tokenizer(f"{shown}{prompt.question}\n")["input_ids"])
        chat = self.tokenizer.apply_chat_template(prompt.messages, tokenize=False, add_generation_prompt=True)
        return list(self.tokenizer(chat, add_special_tokens=False)["input_ids"])


def rows_at_once(config: TeacherOutputs) -> int:
    """Rows a model works on side by side."""
    return config.concurrency or (GPU_ROWS if torch.cuda.is_available() else CPU_ROWS)


def context_tokens(folder: Path, config: TeacherOutputs) -> int:
    """Tokens of the longest prompt and its answer: what the settings may need, and no more than the model knows."""
    from transformers import AutoConfig

    known = AutoConfig.from_pretrained(folder, local_files_only=True)
    longest = int(getattr(known, "max_position_embeddings", 0) or 2**20)
    wanted = FIXED_TOKENS + (1 + config.num_references) * config.max_text_tokens + config.max_output_tokens
    return min(longest, wanted)


def _failed(error: str) -> Completion:
    return Completion(text="", prompt_tokens=0, output_tokens=0, is_complete=False, error=error)


def _share(number: int, config: TeacherOutputs) -> dict[str, str]:
    """The part of the machine a copy gets: its own GPUs, or its share of the cores."""
    if torch.cuda.is_available():
        given = os.environ.get("CUDA_VISIBLE_DEVICES")
        devices = given.split(",") if given else [str(device) for device in range(torch.cuda.device_count())]
        wanted = config.data_parallel * config.tensor_parallel
        if len(devices) < wanted:
            raise ConfigError(
                f"teacher_outputs: data_parallel × tensor_parallel is {wanted}, and there are {len(devices)} GPUs"
            )
        own = devices[number * config.tensor_parallel : (number + 1) * config.tensor_parallel]
        return {"CUDA_VISIBLE_DEVICES": ",".join(own)}
    if config.data_parallel == 1:
        return {}
    return {"OMP_NUM_THREADS": str(max((os.cpu_count() or 1) // config.data_parallel, 1))}
