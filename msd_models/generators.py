"""Where a teacher's words come from: a model loaded here, a server, or a script, behind one protocol.

A generator takes requests one by one and hands completions back as they finish, in any order: a model is kept busy
while earlier rows are judged, asked again or written, and what has finished can be kept at once.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from pipeline.config import TeacherOutputs
from pipeline.errors import ConfigError

OVER_LONG = "over-long"
"""Error of a completion whose prompt does not fit into the model's context."""


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """Worked examples as finished exchanges, then the question; a chat template or plain lines set the turns."""

    examples: tuple[tuple[str, str], ...]
    """(question, answer) of each."""
    question: str

    @property
    def messages(self) -> list[dict[str, str]]:
        """The turns of a chat that the model is to go on with."""
        turns = [turn for asked, answered in self.examples for turn in (("user", asked), ("assistant", answered))]
        return [{"role": role, "content": text} for role, text in [*turns, ("user", self.question)]]


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How a completion is drawn."""

    temperature: float
    seed: int
    frequency_penalty: float
    max_tokens: int


@dataclass(frozen=True, kw_only=True)
class Request:
    """One completion wanted."""

    id: str
    prompt: Prompt
    sampling: Sampling


@dataclass(frozen=True, kw_only=True)
class Completion:
    """What a generator wrote for one request."""

    text: str
    prompt_tokens: int
    output_tokens: int
    is_complete: bool = True
    """False where the token limit ended it."""
    error: str | None = None
    """Why there is no text: the request itself cannot be served, however often it is asked."""


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """Untrusted text made safe and short enough to stand in a prompt."""

    text: str
    tokens_cut: int


class Generator(Protocol):
    """Requests to completions."""

    capacity: int
    """Requests worth having under way at once."""

    def identity(self) -> Mapping[str, Any]:
        """What the completions depend on besides the request: the model and its revision."""

    def fit(self, text: str, max_tokens: int, *, keep_end: bool) -> Fitted:
        """The text without control tokens and in at most max_tokens tokens."""

    def count_tokens(self, prompt: Prompt) -> int:
        """Tokens of the prompt."""

    def submit(self, request: Request) -> None:
        """Takes a request; the first one loads the model."""

    def collect(self) -> list[tuple[str, Completion]]:
        """Waits until something has finished and returns it with the requests' ids; empty when nothing is under way.

        Raises:
            ServiceError: the model or the server cannot be had.
        """

    def close(self) -> None:
        """Gives back what the generator holds."""


def make_generator(config: TeacherOutputs) -> Generator:
    """The generator config names.

    Raises:
        ConfigError: an unknown generator, or a script or tokenizer that is missing or malformed.
        MissingExtra: vllm is not installed.
    """
    if config.generator == "scripted":
        from msd_models.scripted_generator import ScriptedGenerator, script_path

        return ScriptedGenerator(script_path(config.script))
    if config.generator == "vllm":
        from msd_models.vllm_generator import VllmGenerator

        return VllmGenerator(config)
    if config.generator == "openai":
        from msd_models.openai_generator import OpenAiGenerator

        return OpenAiGenerator(config)
    raise ConfigError(f"teacher_outputs.generator is '{config.generator}'; choose vllm, openai or scripted")
