"""What is asked about a row: the prompt, and the content keys that its completions are kept under.

A key is the hash of everything a completion depends on: the messages (template, worked examples, the text as it stands
in the prompt), the model and its revision, how it is sampled, the answer's schema, and the attempt. The parser is not
among it: raw completions are kept, and read again by whatever parser there is.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from msd_models.answers import JSON_SCHEMA
from msd_models.generators import Generator, Prompt, Sampling
from msd_models.language_model import cpu_threads
from msd_models.teacher_prompt import Templates, language_of
from msd_models.worked_examples import Examples, Reference, read_references
from pipeline.config import TeacherOutputs
from pipeline.settings import digest

KEY_DIGITS = 32
BATCH_TOKENS = 1024
"""Of the sentence encoder: small passes leave the memory to the teacher's model."""


@dataclass(frozen=True, kw_only=True)
class Question:
    """A row's prompt and where it came from."""

    prompt: Prompt
    template_id: str
    references: tuple[Reference, ...]
    tokens_cut: int
    keys: tuple[str, ...]
    """Content key of each attempt."""


class Questioner:
    """Makes questions for rows of prompts."""

    def __init__(self, config: TeacherOutputs, generator: Generator) -> None:
        """Reads templates and references; the sentence encoder is loaded when it is first needed.

        Raises:
            ConfigError: templates, references or settings that cannot be used.
        """
        self.config = config
        self.generator = generator
        self.templates = Templates(config.template)
        self.encoder = LazyEncoder(config.phrase_encoder)
        self.examples = Examples(read_references(config.references), config.num_references, self.encoder)
        self.facts = {"model": dict(generator.identity()), "schema": JSON_SCHEMA}

    def ask(self, rows: Sequence[Mapping[str, Any]]) -> list[Question]:
        """One question per row of prompts, in order."""
        languages = [language_of(row["teacher_text"], self.config.language) for row in rows]
        chosen = self.examples.choose(rows, languages)
        return [self._question(*parts) for parts in zip(rows, languages, chosen, strict=True)]

    def sampling(self, attempt: int) -> Sampling:
        """How an attempt, counted from 0, is drawn: those after the first are never greedy and have their own seeds."""
        config = self.config
        temperature = config.temperature if attempt == 0 else max(config.temperature, config.retry_temperature)
        return Sampling(
            temperature=temperature,
            seed=config.seed + attempt if temperature > 0 else 0,
            frequency_penalty=config.frequency_penalty,
            max_tokens=config.max_output_tokens,
        )

    def _question(self, row: Mapping[str, Any], language: str, references: tuple[Reference, ...]) -> Question:
        level = row["level"]
        fitted = self.generator.fit(row["teacher_text"], self.config.max_text_tokens, keep_end=level == "user")
        prompt = self.templates.prompt(level, language, fitted.text, references)
        return Question(
            prompt=prompt,
            template_id=self.templates.id_of(level, language),
            references=references,
            tokens_cut=fitted.tokens_cut,
            keys=tuple(self._key(prompt, attempt) for attempt in range(self.config.max_attempts)),
        )

    def _key(self, prompt: Prompt, attempt: int) -> str:
        sampling = vars(self.sampling(attempt))
        facts = {**self.facts, "messages": prompt.messages, "sampling": sampling, "attempt": attempt}
        return digest(facts)[:KEY_DIGITS]


class LazyEncoder:
    """A sentence encoder loaded at first use, on one thread: the teacher's model has the rest of the machine."""

    def __init__(self, model: str) -> None:
        """Takes the encoder's name or path."""
        self.model = model
        self.loaded: Any = None

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        """Unit vectors [N, D] in float32."""
        from msd_models.sentence_encoder import SentenceEncoder

        with cpu_threads(1):
            if self.loaded is None:
                self.loaded = SentenceEncoder(self.model)
            vectors_ND: np.ndarray = self.loaded.encode(texts, batch_tokens=BATCH_TOKENS)
        return vectors_ND
