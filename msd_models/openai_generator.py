"""A teacher behind a server that speaks OpenAI's protocol: the work folder's own, a `vllm serve` cluster, or any other.

The client library retries what may pass (429, 5xx, a broken connection) with growing pauses; a request the server calls
wrong is given up with its reason; a server that cannot be reached ends the stage, and what was generated is kept.
"""

import asyncio
import os
import queue
import threading
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from msd_models.answers import JSON_SCHEMA
from msd_models.generators import OVER_LONG, Completion, Fitted, Prompt, Request
from msd_models.language_model import MINILM, SMOLLM2, folder_digest, load_tokenizer, model_folder
from msd_models.untrusted_text import fit_text
from pipeline.config import TeacherOutputs
from pipeline.errors import ConfigError, ServiceError
from pipeline.teacher_address import is_own, read_address

CONCURRENCY = 64
MAX_RETRIES = 6
"""Pauses of half a second to eight: about half a minute before a request counts as failed."""
KEY_VARIABLE = "OPENAI_API_KEY"
Finished = tuple[str, Completion] | ServiceError


class OpenAiGenerator:
    """Completions by a server."""

    def __init__(self, config: TeacherOutputs) -> None:
        """Reads the tokenizer and starts the thread requests are sent from; the server is not asked yet.

        Raises:
            ConfigError: no tokenizer, by which texts could be cut.
        """
        self.config = config
        self.capacity = config.concurrency or CONCURRENCY
        self.tokenizer = load_tokenizer(model_folder(_tokenizer_of(config)))
        self.finished: queue.Queue[Finished] = queue.Queue()
        self.max_retries = MAX_RETRIES
        self.num_open = 0
        self.under_way: set[asyncio.Task[None]] = set()
        self.client: Any = None
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()

    def identity(self) -> Mapping[str, Any]:
        """The name the server knows the model by and its revision; of our own server, the bytes it loads."""
        if is_own(self.config.endpoint):
            return {"served": self.config.model, "weights": self._digest}
        return {"served": self.config.model, "revision": self.config.revision}

    def fit(self, text: str, max_tokens: int, *, keep_end: bool) -> Fitted:
        """The text in at most max_tokens tokens, with nothing in it that a model takes for a command."""
        return fit_text(self.tokenizer, text, max_tokens, keep_end=keep_end)

    def count_tokens(self, prompt: Prompt) -> int:
        """Tokens of the turns, about: the server adds its own template."""
        return sum(len(self.tokenizer(turn["content"])["input_ids"]) for turn in prompt.messages)

    def submit(self, request: Request) -> None:
        """Sends the request when its turn comes; the first one asks whether the server has the model."""
        if self.client is None:
            if is_own(self.config.endpoint):
                from msd_models.teacher_server import revive

                revive(self.config, Path(self.config.endpoint))
            self.client, self.turn = asyncio.run_coroutine_threadsafe(self._connect(), self.loop).result()
            asyncio.run_coroutine_threadsafe(self._check_server(), self.loop).result()
        self.num_open += 1
        self.loop.call_soon_threadsafe(self._start, request)

    def collect(self) -> list[tuple[str, Completion]]:
        """Waits until something has finished.

        Raises:
            ServiceError: the server cannot be reached, or refuses the key or the model.
        """
        done: list[tuple[str, Completion]] = []
        while self.num_open and (not done or not self.finished.empty()):
            one = self.finished.get()
            if isinstance(one, ServiceError):
                raise one
            self.num_open -= 1
            done.append(one)
        return done

    def close(self) -> None:
        """Gives up what is under way and ends the thread."""
        asyncio.run_coroutine_threadsafe(self._disconnect(), self.loop).result()
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()
        self.loop.close()

    async def _connect(self) -> tuple[Any, asyncio.Semaphore]:
        from openai import AsyncOpenAI, DefaultAsyncHttpxClient

        own = read_address(Path(self.config.endpoint)) if is_own(self.config.endpoint) else None
        client = AsyncOpenAI(
            base_url=own.url if own else self.config.endpoint,
            api_key=(own.key if own else os.environ.get(KEY_VARIABLE)) or "none",
            timeout=self.config.timeout_seconds,
            max_retries=self.max_retries,
            # What runs on this machine is not asked through a proxy.
            http_client=DefaultAsyncHttpxClient(trust_env=own is None),
        )
        return client, asyncio.Semaphore(self.capacity)

    async def _check_server(self) -> None:
        """A wrong address or model name is said at once, not after every request has been retried."""
        import openai

        try:
            listed = await self.client.with_options(max_retries=1).models.list()
        except openai.NotFoundError:
            return
        except openai.OpenAIError as error:
            raise self._service_error(error) from error
        served = [model.id for model in listed.data]
        if self.config.model not in served:
            raise ConfigError(
                f"teacher_outputs.model is '{self.config.model}', and the server at {self._where} serves"
                f" {', '.join(served) or 'none'}; set it to one of these"
            )

    async def _disconnect(self) -> None:
        # Only these are cancelled: each ends the connections it was making, which cannot be cancelled from outside.
        under_way = list(self.under_way)
        for task in under_way:
            task.cancel()
        await asyncio.gather(*under_way, return_exceptions=True)
        if self.client is not None:
            await self.client.close()

    def _start(self, request: Request) -> None:
        task = self.loop.create_task(self._answer(request))
        self.under_way.add(task)
        task.add_done_callback(self.under_way.discard)

    async def _answer(self, request: Request) -> None:
        import openai

        try:
            async with self.turn:
                completion = await self._ask(request)
            self.finished.put((request.id, completion))
        except (openai.BadRequestError, openai.UnprocessableEntityError) as error:
            reason = OVER_LONG if "context length" in str(error).lower() else "refused by the server"
            self.finished.put((request.id, _failed(reason)))
        except openai.OpenAIError as error:
            self.finished.put(self._service_error(error))

    async def _ask(self, request: Request) -> Completion:
        sampling = request.sampling
        answer = await self.client.chat.completions.create(
            model=self.config.model,
            messages=request.prompt.messages,
            temperature=sampling.temperature,
            seed=sampling.seed,
            max_tokens=sampling.max_tokens,
            frequency_penalty=sampling.frequency_penalty,
            response_format={
                "type": "json_schema",
                "json_schema": {"name": "key_phrases", "schema": JSON_SCHEMA, "strict": True},
            },
        )
        choice, usage = answer.choices[0], answer.usage
        return Completion(
            text=choice.message.content or "",
            prompt_tokens=usage.prompt_tokens if usage else 0,
            output_tokens=usage.completion_tokens if usage else 0,
            is_complete=choice.finish_reason == "stop",
        )

    def _service_error(self, error: Exception) -> ServiceError:
        said = (str(error).strip().splitlines() or [type(error).__name__])[0]
        advice = f"see that it runs and serves that model, set {KEY_VARIABLE} if it wants a key; the same command then"
        if is_own(self.config.endpoint):
            advice = "see: msd teacher status; the same command starts a server anew that has ended, and"
        return ServiceError(
            f"teacher_outputs: the server at {self._where} does not answer for {self.config.model}: {said}; {advice}"
            " goes on where it was"
        )

    @property
    def _where(self) -> str:
        return str(self.client.base_url) if self.client is not None else self.config.endpoint

    @cached_property
    def _digest(self) -> str:
        return folder_digest(model_folder(self.config.model))


def _tokenizer_of(config: TeacherOutputs) -> str:
    if config.tokenizer:
        return config.tokenizer
    if config.model in (SMOLLM2, MINILM) or Path(config.model).expanduser().is_dir():
        return config.model
    raise ConfigError(
        f"teacher_outputs.model is '{config.model}', which is no folder here, and texts are cut by the model's own"
        " tokenizer: set teacher_outputs.tokenizer to its folder"
    )


def _failed(reason: str) -> Completion:
    return Completion(text="", prompt_tokens=0, output_tokens=0, is_complete=False, error=reason)
