"""A language model under vLLM, offline, in a process of its own that ends with this one.

Structured output holds the model to JSON whose strings and lists are bounded: a small model given free text rambles
and repeats, and a completion cut in the middle is lost.
"""

import contextlib
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from typing import Any

from msd_models.generators import Completion, Prompt
from msd_models.language_model import load_tokenizer, model_folder, resolve_dtype
from pipeline.config import TeacherOutputs
from pipeline.errors import MissingExtra, ServiceError

PROMPT_WORDS_TOKENS = 420
"""Room for the task and the worked example around the text."""
MAX_RATIONALE_CHARACTERS = 90
MAX_PHRASES = 3
"""In each list; with these bounds nearly every completion of a small model ends within 112 tokens."""
STOP_SECONDS = 10
_WORD = r"[^\s\"\\.,;\[\]{}]"
_PHRASES = {
    "type": "array",
    "minItems": 1,
    "maxItems": MAX_PHRASES,
    "items": {"type": "string", "pattern": rf"^{_WORD}{{2,20}}( {_WORD}{{1,16}}){{0,3}}$"},
}
"""Up to four words: a bound in characters alone ends phrases in the middle of a word."""
JSON_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "rationale": {"type": "string", "minLength": 10, "maxLength": MAX_RATIONALE_CHARACTERS},
        "explicit": _PHRASES,
        "implicit": _PHRASES,
    },
    "required": ["rationale", "explicit", "implicit"],
    "additionalProperties": False,
}


class VllmGenerator:
    """Completions by a model under vLLM."""

    def __init__(self, config: TeacherOutputs) -> None:
        """Starts the process and loads the model.

        Raises:
            MissingExtra: vllm is not installed.
            ConfigError: the model does not exist.
            ServiceError: the model cannot be loaded.
        """
        if importlib.util.find_spec("vllm") is None:
            raise MissingExtra("teacher_outputs needs vllm: install the 'cpu' or 'gpu' extra")
        folder = model_folder(config.model)
        self.tokenizer = load_tokenizer(folder)
        self.control_tokens = sorted({str(token) for token in self.tokenizer.added_tokens_decoder.values()})
        self.errors = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115
        self.process = subprocess.Popen(
            [sys.executable, "-m", "msd_models.vllm_worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            encoding="utf-8",
            env=dict(os.environ),
        )
        try:
            self._ask(_settings(config, str(folder)))
        except ServiceError:
            self.close()
            raise

    def fit(self, text: str, max_tokens: int, *, keep_end: bool) -> str:
        """The text in at most max_tokens tokens, its control tokens broken up so that they are plain characters."""
        for token in self.control_tokens:
            text = text.replace(token, f"{token[0]} {token[1:]}")
        spans = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
        if len(spans) <= max_tokens:
            return text
        return text[spans[-max_tokens][0] :] if keep_end else text[: spans[max_tokens - 1][1]]

    def generate(self, prompts: Sequence[Prompt]) -> list[Completion]:
        """One completion per prompt, in order."""
        reply = self._ask({"prompts": [self._chat_ids(prompt) for prompt in prompts]})
        return [Completion(**made) for made in reply["completions"]]

    def close(self) -> None:
        """Ends the process, which gives its memory back."""
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        try:
            self.process.wait(timeout=STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        for stream in (self.process.stdout, self.errors):
            if stream is not None:
                stream.close()

    def _chat_ids(self, prompt: Prompt) -> list[int]:
        if not self.tokenizer.chat_template:
            text = f"{prompt.example_question}\n{prompt.example_answer}\n\n{prompt.question}\n"
            return list(self.tokenizer(text)["input_ids"])
        messages = [
            {"role": "user", "content": prompt.example_question},
            {"role": "assistant", "content": prompt.example_answer},
            {"role": "user", "content": prompt.question},
        ]
        chat = self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        return list(self.tokenizer(chat, add_special_tokens=False)["input_ids"])

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """Sends one request; a worker that dies leaves its last line as the reason."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        try:
            self.process.stdin.write(json.dumps(request) + "\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            code = self.process.wait()
            raise ServiceError(f"vLLM ended with code {code}: {self._last_error()}; see: msd doctor")
        return dict(json.loads(line))

    def _last_error(self) -> str:
        self.errors.seek(0)
        lines = [line.strip() for line in self.errors.read().splitlines() if line.strip()]
        named = [line for line in lines if "Error" in line]
        return (named or lines or ["no message"])[-1]


def _settings(config: TeacherOutputs, model: str) -> dict[str, Any]:
    return {
        "model": model,
        "dtype": str(resolve_dtype(config.dtype)).removeprefix("torch."),
        "max_model_len": PROMPT_WORDS_TOKENS + config.max_text_tokens + config.max_output_tokens,
        "max_output_tokens": config.max_output_tokens,
        "temperature": config.temperature,
        "frequency_penalty": config.frequency_penalty,
        "seed": config.seed,
        "kv_cache_gib": config.kv_cache_gib,
        "gpu_memory_share": config.gpu_memory_share,
        "json_schema": JSON_SCHEMA,
    }
