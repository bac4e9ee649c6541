"""Sentence vectors: a BERT-like encoder, mean-pooled over its tokens and scaled to length one."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from msd_models.language_model import device, load_encoder, load_tokenizer, model_folder
from msd_models.token_batches import map_batches, pad, token_batches

# B rows of a batch, T tokens, D dimensions, N texts


class SentenceEncoder:
    """A frozen sentence encoder from a built-in name or a Hugging Face folder."""

    def __init__(self, model: str, dtype: torch.dtype = torch.float32, pooling: str = "mean") -> None:
        """Loads the model.

        Args:
            model: a built-in name or a path.
            dtype: of the forward pass.
            pooling: `mean` over all tokens or `last` token.
        """
        folder = model_folder(model)
        self.tokenizer = load_tokenizer(folder)
        self.model = load_encoder(folder, dtype).to(device())
        self.pooling = pooling
        self.dimension = int(self.model.config.hidden_size)
        self.longest = int(getattr(self.model.config, "max_position_embeddings", 512))

    def encode(self, texts: Sequence[str], *, max_tokens: int = 128, batch_tokens: int = 4096) -> np.ndarray:
        """Unit vectors [N, D] in float32; an empty text is read as its special tokens alone."""
        return self.read(token_ids(self.tokenizer, texts, min(max_tokens, self.longest)), batch_tokens)

    def read(self, ids: Sequence[Sequence[int]], batch_tokens: int) -> np.ndarray:
        """Unit vectors [N, D] in float32 of tokenised texts."""
        vectors_ND = np.zeros((len(ids), self.dimension), dtype=np.float32)
        batches = list(token_batches([len(row) for row in ids], batch_tokens))
        made = map_batches(lambda rows: self._encode_batch([ids[row] for row in rows]), batches, self.model.device)
        for rows, vectors_BD in zip(batches, made, strict=True):
            vectors_ND[rows] = vectors_BD
        return vectors_ND

    @torch.inference_mode()
    def _encode_batch(self, ids: list[Sequence[int]]) -> np.ndarray:
        ids_BT, mask_BT = pad(ids, self.tokenizer.pad_token_id)
        ids_BT, mask_BT = ids_BT.to(self.model.device), mask_BT.to(self.model.device)
        hidden_BTD = self.model(input_ids=ids_BT, attention_mask=mask_BT).last_hidden_state
        pooled_BD = pool(hidden_BTD, mask_BT, self.pooling)
        return torch.nn.functional.normalize(pooled_BD, dim=-1).cpu().numpy()


def token_ids(tokenizer: Any, texts: Sequence[str], max_tokens: int, *, keep_end: bool = False) -> list[list[int]]:
    """Token ids with the model's special tokens, at most max_tokens or what the tokenizer says a model reads.

    Args:
        tokenizer: of the model.
        texts: in which nothing is taken for a control token.
        max_tokens: a longer text is cut.
        keep_end: at its beginning instead of its end.
    """
    if not texts:
        return []
    tokenizer.truncation_side = "left" if keep_end else "right"
    limit = min(max_tokens, tokenizer.model_max_length)
    options = {"truncation": True, "max_length": limit, "split_special_tokens": True}
    return list(tokenizer(list(texts), **options)["input_ids"])


def pool(hidden_BTD: torch.Tensor, mask_BT: torch.Tensor, pooling: str) -> torch.Tensor:
    """One float32 vector a row from its unmasked tokens (right-padded): their mean, or the last one."""
    if pooling == "last":
        last_B = mask_BT.long().cumsum(dim=1).argmax(dim=1)
        return hidden_BTD[torch.arange(len(hidden_BTD), device=hidden_BTD.device), last_B].float()
    mask_BT1 = mask_BT.unsqueeze(-1).float()
    return (hidden_BTD.float() * mask_BT1).sum(dim=1) / mask_BT1.sum(dim=1).clamp(min=1)
