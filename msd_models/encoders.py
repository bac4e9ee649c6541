"""Encoders behind one interface, each knowing the id of the vector space it writes before any weights are loaded.

The student reads instruction, text and cue in the ids it was trained on, without its vocabulary head, and is pooled
over everything after the instruction: those first positions are the same in every row, and hold a language model's
attention sink. Vectors of the student are as pooled, those of a sentence encoder have length one.
"""

import json
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from msd_models.behaviours import SKIPPED, BehaviourReader, Behaviours
from msd_models.engine_choice import check_engine, open_engine
from msd_models.engines import LayeredEngine, ModelReading
from msd_models.language_model import device, folder_digest, load_tokenizer, model_folder, resolve_dtype
from msd_models.plain_engine import PlainEngine
from msd_models.sentence_encoder import SentenceEncoder, token_ids
from msd_models.student_prompt import TEMPLATE, PromptIds, prompt_ids
from pipeline.config import Vectors
from pipeline.errors import ConfigError, StageError
from pipeline.settings import digest
from pipeline.storage import Dataset

# N texts, D dimensions

SPACE_DIGITS = 16
READING_DIGITS = 8
POOLINGS = ("mean", "last")
MODES = ("text", "behaviours")
WINDOW_TEXTS = 4096
"""Texts sorted by length together; the next window is tokenised while the model reads this one."""


class TextEncoder(Protocol):
    """Texts to vectors of one space."""

    dimension: int
    space_id: str
    reading: str
    """Digest of what else decides the vector of a text: two encoders of one space may cut texts differently."""
    tokens_read: int
    """Since the encoder was made, as `count_tokens` counts them."""

    def count_tokens(self, texts: Sequence[str], *, keep_end: bool) -> Sequence[int]:
        """Tokens a plain forward reads of each text, the words around it included; loads no weights."""

    def encode(self, texts: Sequence[str], *, keep_end: bool) -> np.ndarray:
        """Vectors [N, D] in float32; keep_end cuts a long text at its beginning instead of its end.

        The first call loads the model.
        """

    def encode_histories(self, histories: Sequence[Behaviours]) -> np.ndarray:
        """Vectors [N, D] in float32 of users read as behaviours; only with mode = behaviours."""

    def close(self) -> None:
        """Gives the model's memory back; the next call loads it again."""


def make_encoder(config: Vectors, student: Dataset | None) -> TextEncoder:
    """The student where there is one, else the sentence encoder config names; no weights are loaded yet.

    Raises:
        ConfigError: an unknown pooling, mode, dtype or engine, one the encoder cannot have, or an encoder other than
            the student where a student is given.
        StageError: the student is not made yet.
    """
    for name, value, known in (("pooling", config.pooling, POOLINGS), ("mode", config.mode, MODES)):
        if value not in known:
            raise ConfigError(f"{name} '{value}' is unknown; choose {' or '.join(known)}")
    if student is None:
        return _SentenceVectors(config)
    if config.encoder != "student":
        raise ConfigError(f"item_vectors and user_vectors read with encoder = student, not '{config.encoder}'")
    return StudentEncoder(student, config)


class StudentEncoder:
    """The committed student, as distilled or tuned, under the engine config names."""

    def __init__(self, student: Dataset, config: Vectors) -> None:
        """Reads the manifest and the model's config.json.

        Raises:
            ConfigError: a dtype or engine there is not.
            StageError: the student is not made yet.
        """
        manifest = student.manifest
        if manifest is None:
            raise StageError(f"{student.name} is not made yet; run: msd run {student.name}")
        check_engine(config.engine)
        self.config = config
        self.folder = student.folder / "model"
        self.dtype = reading_dtype(config.dtype)
        self.dimension = _hidden_size(self.folder)
        _check_behaviour_layers(config, self.folder)
        weights = {name: summed for name, summed in manifest["files"].items() if _shapes_vectors(name)}
        facts = {"weights": weights, "template": TEMPLATE, "scale": "as pooled", **_mode_facts(config)}
        self.space_id = _space(config, self.dtype, self.dimension, facts)
        self.reading = _reading_digest(config)
        self.tokens_read = 0
        self.engine: LayeredEngine | None = None
        self.behaviours: BehaviourReader | None = None

    def count_tokens(self, texts: Sequence[str], *, keep_end: bool) -> list[int]:
        """Tokens of each prompt."""
        return [len(row) for row in self._prompt.of_all(texts, max_tokens=self.config.max_tokens, keep_end=keep_end)]

    def encode(self, texts: Sequence[str], *, keep_end: bool) -> np.ndarray:
        """Vectors [N, D] in float32."""
        vectors_ND = np.zeros((len(texts), self.dimension), dtype=np.float32)
        start = 0
        for ids in _ahead(texts, lambda window: self._prompts(window, keep_end=keep_end)):
            vectors_ND[start : start + len(ids)] = self._opened(ids).read(ids)
            start += len(ids)
        return vectors_ND

    def encode_histories(self, histories: Sequence[Behaviours]) -> np.ndarray:
        """Vectors [N, D] in float32 of users read as behaviours.

        Raises:
            ConfigError: the mode is another one.
        """
        if self.config.mode != "behaviours":
            raise ConfigError(f"users are read as behaviours with mode = behaviours, not '{self.config.mode}'")
        if not histories:
            return np.zeros((0, self.dimension), dtype=np.float32)
        if self.behaviours is None:
            engine = self._opened(self._prompts(histories[0].texts()))
            self.behaviours = BehaviourReader(engine, self._prompts)
        return self.behaviours.encode(histories)

    def close(self) -> None:
        """Gives the model's memory back."""
        if self.engine is not None:
            self.engine.close()
        self.engine = self.behaviours = None

    @cached_property
    def _prompt(self) -> PromptIds:
        return prompt_ids(load_tokenizer(self.folder))

    def _prompts(self, texts: Sequence[str], *, keep_end: bool = False) -> list[list[int]]:
        ids = self._prompt.of_all(texts, max_tokens=self.config.max_tokens, keep_end=keep_end)
        self.tokens_read += sum(map(len, ids))
        return ids

    def _opened(self, ids: Sequence[Sequence[int]]) -> LayeredEngine:
        if self.engine is None:
            reading = ModelReading(
                folder=self.folder,
                dtype=self.dtype,
                pooling=self.config.pooling,
                instruction=tuple(self._prompt.instruction),
                max_tokens=self.config.max_tokens,
                batch_tokens=self.config.batch_tokens,
                num_upper=self.config.behaviour_layers if self.config.mode == "behaviours" else 0,
            )
            self.engine = open_engine(self.config.engine, reading, ids)
        return self.engine


class PromptStates:
    """Pooled hidden states of a language model in memory, which is still being trained perhaps."""

    def __init__(self, model: Any, prompt: PromptIds, config: Vectors) -> None:
        """Takes the model without its vocabulary head.

        Args:
            model: gives last_hidden_state.
            prompt: the words around the text under the model's tokenizer.
            config: pooling, max_tokens, batch_tokens.
        """
        self.prompt = prompt
        self.config = config
        reading = ModelReading(
            folder=Path(),
            dtype=model.dtype,
            pooling=config.pooling,
            instruction=tuple(prompt.instruction),
            max_tokens=config.max_tokens,
            batch_tokens=config.batch_tokens,
        )
        self.engine = PlainEngine(reading, model)

    def encode(self, texts: Sequence[str], *, keep_end: bool) -> np.ndarray:
        """Vectors [N, D] in float32."""
        ids = self.prompt.of_all(texts, max_tokens=self.config.max_tokens, keep_end=keep_end)
        return self.engine.read(ids)


class _SentenceVectors:
    """A sentence encoder under a row-wise stage's settings."""

    def __init__(self, config: Vectors) -> None:
        if config.mode != "text" or config.engine not in ("auto", "plain"):
            raise ConfigError(
                f"a sentence encoder reads with mode = text and engine = auto or plain, not mode = '{config.mode}' and"
                f" engine = '{config.engine}'"
            )
        self.config = config
        self.dtype = resolve_dtype(config.dtype)
        folder = model_folder(config.encoder)
        self.dimension = _hidden_size(folder)
        self.space_id = _space(config, self.dtype, self.dimension, {"weights": folder_digest(folder), "scale": "unit"})
        self.reading = _reading_digest(config)
        self.folder = folder
        self.longest = min(config.max_tokens, _model_settings(folder).get("max_position_embeddings", 512))
        self.tokens_read = 0
        self.encoder: SentenceEncoder | None = None

    def count_tokens(self, texts: Sequence[str], *, keep_end: bool) -> list[int]:
        ids = token_ids(self._tokenizer, texts, self.longest, keep_end=keep_end)
        return [len(row) for row in ids]

    def encode(self, texts: Sequence[str], *, keep_end: bool) -> np.ndarray:
        ids = token_ids(self._tokenizer, texts, self.longest, keep_end=keep_end)
        self.tokens_read += sum(map(len, ids))
        self.encoder = self.encoder or SentenceEncoder(self.config.encoder, self.dtype, self.config.pooling)
        return self.encoder.read(ids, self.config.batch_tokens)

    def encode_histories(self, histories: Sequence[Behaviours]) -> np.ndarray:
        raise ConfigError(f"'{self.config.encoder}' reads {len(histories)} histories only as texts: mode = text")

    def close(self) -> None:
        self.encoder = None

    @cached_property
    def _tokenizer(self) -> Any:
        return load_tokenizer(self.folder)


def reading_dtype(name: str) -> torch.dtype:
    """What the forward pass multiplies in: a dtype of `resolve_dtype`, or int8 on a CPU.

    Raises:
        ConfigError: an unknown name, or int8 where a GPU reads.
    """
    if name != "int8":
        return resolve_dtype(name)
    if device().type != "cpu":
        raise ConfigError("dtype = int8 is for a CPU; on this GPU choose bfloat16, float16 or auto")
    return torch.int8


def _ahead(texts: Sequence[str], prompts: Callable[[Sequence[str]], list[list[int]]]) -> Iterator[list[list[int]]]:
    """Token ids of one window of texts after the other; the next is made while the caller works on this one."""
    windows = [texts[start : start + WINDOW_TEXTS] for start in range(0, len(texts), WINDOW_TEXTS)]
    with ThreadPoolExecutor(1) as thread:
        coming = deque(thread.submit(prompts, window) for window in windows[:1])
        for window in windows[1:]:
            coming.append(thread.submit(prompts, window))
            yield coming.popleft().result()
        while coming:
            yield coming.popleft().result()


def _model_settings(folder: Path) -> dict[str, Any]:
    """The model's config.json, which costs no import of transformers."""
    return dict(json.loads((folder / "config.json").read_text(encoding="utf-8")))


def _hidden_size(folder: Path) -> int:
    settings = _model_settings(folder)
    if not isinstance(settings.get("hidden_size"), int):
        raise ConfigError(f"{folder / 'config.json'} has no hidden_size; wanted a Hugging Face encoder or decoder")
    return int(settings["hidden_size"])


def _check_behaviour_layers(config: Vectors, folder: Path) -> None:
    num_layers = int(_model_settings(folder).get("num_hidden_layers", 1))
    if config.mode == "behaviours" and not 1 <= config.behaviour_layers < num_layers:
        raise ConfigError(
            f"behaviour_layers is {config.behaviour_layers}; the student has {num_layers} layers, of which at least one"
            f" must read the items: choose 1 to {num_layers - 1}, or mode = text"
        )


def _mode_facts(config: Vectors) -> dict[str, Any]:
    """Nothing with mode = text, whose spaces had their names before there was a mode."""
    if config.mode == "text":
        return {}
    return {"mode": config.mode, "behaviour_layers": config.behaviour_layers, "skipped": SKIPPED}


def _reading_digest(config: Vectors) -> str:
    return digest({"max_tokens": config.max_tokens})[:READING_DIGITS]


def _shapes_vectors(name: str) -> bool:
    """Whether a file of the student has a say in its vectors: the card beside the weights has none."""
    return name.startswith("model/") and not name.endswith("README.md")


def _space(config: Any, dtype: torch.dtype, dimension: int, facts: Mapping[str, Any]) -> str:
    """Everything that defines the vectors: two spaces with one id could be mixed by mistake."""
    described = {
        "pooling": config.pooling,
        "dimension": dimension,
        "dtype": str(dtype),
        **facts,
    }
    return digest(described)[:SPACE_DIGITS]
