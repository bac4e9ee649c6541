"""Where a teacher's words come from: a language model under vLLM, or a script.

Both are real: a script holds phrases written by hand, or by a world whose truth is known, and is what tests use.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from pipeline import assets
from pipeline.config import TeacherOutputs
from pipeline.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """One worked example as a finished exchange, then the question; a chat template or plain lines set the turns."""

    example_question: str
    example_answer: str
    question: str


@dataclass(frozen=True, kw_only=True)
class Completion:
    """What a generator wrote for one prompt."""

    text: str
    prompt_tokens: int
    output_tokens: int
    is_complete: bool
    """False where the token limit ended it."""


class Generator(Protocol):
    """Prompts to completions."""

    def fit(self, text: str, max_tokens: int, *, keep_end: bool) -> str:
        """Untrusted text made safe and short enough to stand in a prompt."""

    def generate(self, prompts: Sequence[Prompt]) -> list[Completion]:
        """One completion per prompt, in order."""

    def close(self) -> None:
        """Gives back what the generator holds."""


def make_generator(config: TeacherOutputs) -> Generator:
    """The generator config names, loaded.

    Raises:
        ConfigError: an unknown generator, or a script that is missing or malformed.
        MissingExtra: vllm is not installed.
    """
    if config.generator == "scripted":
        return ScriptedGenerator(_script_path(config.script))
    if config.generator == "vllm":
        from msd_models.vllm_generator import VllmGenerator

        return VllmGenerator(config)
    raise ConfigError(f"teacher_outputs.generator is '{config.generator}'; choose vllm or scripted")


MAX_SCRIPTED_PHRASES = 4
"""Of each kind, where several entries answer together."""


class ScriptedGenerator:
    """Answers from a JSONL file: from every entry whose text occurs in the question, the longest texts first.

    An item's question holds one entry. A user's history holds several: the phrases most of them share come first.
    """

    def __init__(self, path: Path) -> None:
        """Reads entries of {text, rationale, explicit, implicit}."""
        self.entries: dict[str, Mapping[str, Any]] = {}
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            if line.strip():
                text, answer = _entry(line, f"{path.name}:{number}")
                self.entries[text] = answer
        self.longest_first = sorted(self.entries, key=lambda text: (-len(text), text))

    def fit(self, text: str, max_tokens: int, *, keep_end: bool) -> str:
        """The whole text: an entry must be found in it."""
        return text

    def generate(self, prompts: Sequence[Prompt]) -> list[Completion]:
        """The entries' answer as JSON; an empty completion for a question no entry occurs in."""
        return [self._answer(prompt.question) for prompt in prompts]

    def close(self) -> None:
        """Nothing is held."""

    def _answer(self, question: str) -> Completion:
        found, rest = [], question
        for text in self.longest_first:
            if text in rest:
                found.append(self.entries[text])
                rest = rest.replace(text, "\n")
        answer = json.dumps(_together(found), ensure_ascii=False) if found else ""
        words = (len(question.split()), len(answer.split()))
        return Completion(text=answer, prompt_tokens=words[0], output_tokens=words[1], is_complete=True)


def _together(entries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    if len(entries) == 1:
        return dict(entries[0])
    answer: dict[str, Any] = {"rationale": "; ".join(entry["rationale"] for entry in entries[:MAX_SCRIPTED_PHRASES])}
    for kind in ("explicit", "implicit"):
        counted = Counter(phrase for entry in entries for phrase in entry[kind])
        answer[kind] = [phrase for phrase, _ in counted.most_common(MAX_SCRIPTED_PHRASES)]
    return answer


def _entry(line: str, where: str) -> tuple[str, dict[str, Any]]:
    try:
        entry = json.loads(line)
        return str(entry["text"]), {key: entry[key] for key in ("rationale", "explicit", "implicit")}
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise ConfigError(f"{where} is not an object with text, rationale, explicit and implicit") from error


def _script_path(script: str) -> Path:
    if not script:
        raise ConfigError("teacher_outputs.generator is scripted, but no script is named; set teacher_outputs.script")
    if script.startswith("asset:"):
        return assets.locate(script.removeprefix("asset:"))
    path = Path(script).expanduser()
    if not path.is_file():
        raise ConfigError(f"teacher_outputs.script: there is no file {script}")
    return path
