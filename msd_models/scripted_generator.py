"""A teacher that answers from a file: phrases written by hand, or by a world whose truth is known."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from msd_models.generators import Completion, Fitted, Prompt, Request
from pipeline import assets
from pipeline.errors import ConfigError
from pipeline.storage import file_digest

MAX_SCRIPTED_PHRASES = 4
"""Of each kind, where several entries answer together."""
CAPACITY = 256


class ScriptedGenerator:
    """Answers from a JSONL file: from every entry whose text occurs in the question, the longest texts first.

    An item's question holds one entry. A user's history holds several: the phrases most of them share come first.
    """

    capacity = CAPACITY

    def __init__(self, path: Path) -> None:
        """Reads entries of {text, rationale, explicit, implicit}."""
        self.path = path
        self.entries: dict[str, Mapping[str, Any]] = {}
        self.finished: list[tuple[str, Completion]] = []
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            if line.strip():
                text, answer = _entry(line, f"{path.name}:{number}")
                self.entries[text] = answer
        self.longest_first = sorted(self.entries, key=lambda text: (-len(text), text))

    def identity(self) -> Mapping[str, Any]:
        """The script's bytes."""
        return {"script": file_digest(self.path)}

    def fit(self, text: str, max_tokens: int, *, keep_end: bool) -> Fitted:
        """The whole text: an entry must be found in it."""
        return Fitted(text=text, tokens_cut=0)

    def count_tokens(self, prompt: Prompt) -> int:
        """Words: a script has no tokens."""
        return sum(len(message["content"].split()) for message in prompt.messages)

    def submit(self, request: Request) -> None:
        """Answers at once, as JSON; an empty completion for a question no entry occurs in."""
        self.finished.append((request.id, self._answer(request.prompt)))

    def collect(self) -> list[tuple[str, Completion]]:
        """Everything asked since the last call."""
        done, self.finished = self.finished, []
        return done

    def close(self) -> None:
        """Nothing is held."""

    def _answer(self, prompt: Prompt) -> Completion:
        found, rest = [], prompt.question
        for text in self.longest_first:
            if text in rest:
                found.append(self.entries[text])
                rest = rest.replace(text, "\n")
        answer = json.dumps(_together(found), ensure_ascii=False) if found else ""
        return Completion(text=answer, prompt_tokens=self.count_tokens(prompt), output_tokens=len(answer.split()))


def script_path(script: str) -> Path:
    """The file a setting names: `asset:NAME/FILE` or a path.

    Raises:
        ConfigError: no script, or a path without a file.
    """
    if not script:
        raise ConfigError("teacher_outputs.generator is scripted, but no script is named; set teacher_outputs.script")
    if script.startswith("asset:"):
        return assets.locate(script.removeprefix("asset:"))
    path = Path(script).expanduser()
    if not path.is_file():
        raise ConfigError(f"teacher_outputs.script: there is no file {script}")
    return path


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
