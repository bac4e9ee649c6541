"""Encoders behind one interface, each knowing the id of the vector space it writes.

The student reads instruction, text and cue in the ids it was trained on, without its vocabulary head, and is pooled
over everything after the instruction: those first positions are the same in every row, and hold a language model's
attention sink. Vectors of the student are as pooled, those of a sentence encoder have length one.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch

from msd_models.language_model import device, folder_digest, load_encoder, load_tokenizer, model_folder, resolve_dtype
from msd_models.sentence_encoder import SentenceEncoder, pool
from msd_models.student_prompt import TEMPLATE, PromptIds, prompt_ids
from msd_models.token_batches import map_batches, pad, token_batches
from pipeline.config import Vectors
from pipeline.errors import ConfigError, StageError
from pipeline.settings import digest
from pipeline.storage import Dataset

# B rows of a batch, T tokens, D dimensions, N texts

SPACE_DIGITS = 16
POOLINGS = ("mean", "last")


class TextEncoder(Protocol):
    """Texts to vectors of one space."""

    dimension: int
    space_id: str

    def encode(self, texts: Sequence[str], *, keep_end: bool) -> np.ndarray:
        """Vectors [N, D] in float32; keep_end cuts a long text at its beginning instead of its end."""


def make_encoder(config: Vectors, student: Dataset | None) -> TextEncoder:
    """The student where there is one, else the sentence encoder config names.

    Raises:
        ConfigError: an unknown pooling or dtype, or an encoder other than the student where a student is given.
        StageError: the student is not made yet.
    """
    if config.pooling not in POOLINGS:
        raise ConfigError(f"pooling '{config.pooling}' is unknown; choose {' or '.join(POOLINGS)}")
    if student is None:
        return _SentenceVectors(config)
    if config.encoder != "student":
        raise ConfigError(f"item_vectors and user_vectors read with encoder = student, not '{config.encoder}'")
    return StudentEncoder(student, config)


class PromptStates:
    """Pooled hidden states of a language model that reads instruction, text and cue."""

    def __init__(self, model: Any, prompt: PromptIds, config: Vectors) -> None:
        """Takes the model without its vocabulary head.

        Args:
            model: gives last_hidden_state.
            prompt: the words around the text under the model's tokenizer.
            config: pooling, max_tokens, batch_tokens.
        """
        self.model = model
        self.prompt = prompt
        self.config = config
        self.dimension = int(model.config.hidden_size)

    def encode(self, texts: Sequence[str], *, keep_end: bool) -> np.ndarray:
        """Vectors [N, D] in float32."""
        vectors_ND = np.zeros((len(texts), self.dimension), dtype=np.float32)
        limit = self.config.max_tokens
        ids = [self.prompt.of(text, max_tokens=limit, keep_end=keep_end) for text in texts]
        batches = list(token_batches([len(row) for row in ids], self.config.batch_tokens))
        made = map_batches(lambda rows: self._encode_batch([ids[row] for row in rows]), batches, self.model.device)
        for rows, vectors_BD in zip(batches, made, strict=True):
            vectors_ND[rows] = vectors_BD
        return vectors_ND

    @torch.inference_mode()
    def _encode_batch(self, ids: list[list[int]]) -> np.ndarray:
        """A causal model needs no mask for padding on the right: no real token sees what stands after it."""
        ids_BT, mask_BT = pad(ids, self.prompt.tokenizer.pad_token_id)
        hidden_BTD = self.model(input_ids=ids_BT.to(self.model.device), use_cache=False).last_hidden_state
        mask_BT[:, : len(self.prompt.instruction)] = 0
        return pool(hidden_BTD, mask_BT.to(self.model.device), self.config.pooling).cpu().numpy()


class StudentEncoder(PromptStates):
    """The committed student, as distilled or tuned, as an encoder."""

    def __init__(self, student: Dataset, config: Vectors) -> None:
        """Loads its model."""
        folder = student.folder / "model"
        manifest = student.manifest
        if manifest is None:
            raise StageError(f"{student.name} is not made yet; run: msd run {student.name}")
        dtype = resolve_dtype(config.dtype)
        super().__init__(load_encoder(folder, dtype).to(device()), prompt_ids(load_tokenizer(folder)), config)
        weights = {name: summed for name, summed in manifest["files"].items() if _shapes_vectors(name)}
        self.space_id = _space(
            config, dtype, self.dimension, {"weights": weights, "template": TEMPLATE, "scale": "as pooled"}
        )


class _SentenceVectors:
    """A sentence encoder under a row-wise stage's settings."""

    def __init__(self, config: Vectors) -> None:
        dtype = resolve_dtype(config.dtype)
        self.config = config
        self.encoder = SentenceEncoder(config.encoder, dtype, config.pooling)
        self.dimension = self.encoder.dimension
        weights = folder_digest(model_folder(config.encoder))
        self.space_id = _space(config, dtype, self.dimension, {"weights": weights, "scale": "unit"})

    def encode(self, texts: Sequence[str], *, keep_end: bool) -> np.ndarray:
        self.encoder.tokenizer.truncation_side = "left" if keep_end else "right"
        return self.encoder.encode(texts, max_tokens=self.config.max_tokens, batch_tokens=self.config.batch_tokens)


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
