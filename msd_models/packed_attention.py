"""Attention of texts that lie one after the other in a matrix, each over a common prefix and its own tokens.

Texts of one length lie side by side, so that attention is two batched products over views, without a padded position.
For texts of some hundred tokens two products and a softmax take half the time of torch's fused attention on a CPU,
whose tiles are made for longer ones. Queries are taken so many at a time that their scores stay in the cache and below
what an allocator fetches from the system anew each time, and see no keys that come after all of them: 200 tokens take
3.5 µs a token and layer where all at once take 20. The fused kernel takes over where texts are very long.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

# S tokens of a batch, B texts of a span, T tokens of a text, C tokens of the common prefix, K = C + T, Q queries of a
# text, H heads, G heads of keys and values, N queries to each of those, P dimensions of a head, D = H·P

FUSED_TOKENS = 2048
"""Keys of a text from which on the fused kernel is taken, whose memory does not grow with them: on a CPU two products
in blocks take two thirds of its time at 900 keys."""
FUSED_TOKENS_ELSEWHERE = 512
"""The same on a GPU, where blocks would be too small to fill it."""
MOST_SCORES = 2**18
"""Of a block of queries, over all texts and heads of a span."""
LEAST_QUERIES = 32
KeysValues = tuple[Tensor, Tensor]
"""keys_GCP and values_GCP of the common prefix in one layer."""


@dataclass(frozen=True, kw_only=True)
class Span:
    """Texts of one length that lie side by side."""

    start: int
    num_texts: int
    num_tokens: int
    """Of each text."""

    @property
    def tokens(self) -> slice:
        """Of all its texts."""
        return slice(self.start, self.start + self.num_texts * self.num_tokens)


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Where the texts of a batch lie."""

    lengths_B: Tensor
    spans: tuple[Span, ...]

    @staticmethod
    def of(lengths: Sequence[int], device: torch.device) -> "Layout":
        """Texts of these lengths, one after the other."""
        spans: list[Span] = []
        start = 0
        for length in lengths:
            before = spans.pop() if spans and spans[-1].num_tokens == length else None
            num_texts = before.num_texts + 1 if before else 1
            spans.append(Span(start=before.start if before else start, num_texts=num_texts, num_tokens=length))
            start += length
        return Layout(lengths_B=torch.tensor(lengths, device=device), spans=tuple(spans))

    @cached_property
    def last_B(self) -> Tensor:
        """The last token of each text."""
        return self.lengths_B.cumsum(0) - 1

    @cached_property
    def text_S(self) -> Tensor:
        """The text each token belongs to."""
        texts_B = torch.arange(len(self.lengths_B), device=self.lengths_B.device)
        return texts_B.repeat_interleave(self.lengths_B)

    @cached_property
    def place_S(self) -> Tensor:
        """The place of each token in its text."""
        first_B = self.last_B + 1 - self.lengths_B
        return torch.arange(len(self.text_S), device=self.lengths_B.device) - first_B[self.text_S]

    def mean(self, states_SD: Tensor) -> Tensor:
        """The mean over each text's tokens [B, D]."""
        sums_BD = states_SD.new_zeros(len(self.lengths_B), states_SD.shape[1])
        return sums_BD.index_add_(0, self.text_S, states_SD) / self.lengths_B.unsqueeze(1)


@dataclass(frozen=True, kw_only=True)
class Rotation:
    """Rotary positions of a batch's tokens as complex numbers [S, 1, P/2]; a head's two halves are its parts."""

    queries_S1R: Tensor
    """Times the scale of the scores."""
    keys_S1R: Tensor

    def of_queries(self, query_SHP: Tensor, rows_Q: Tensor | None) -> Tensor:
        """Scaled queries, of all tokens or of those of rows_Q."""
        return _rotated(query_SHP, self.queries_S1R if rows_Q is None else self.queries_S1R[rows_Q])

    def of_keys(self, key_SGP: Tensor) -> Tensor:
        """Keys of all tokens."""
        return _rotated(key_SGP, self.keys_S1R)


def interleaved(x_IA: Tensor, head_dim: int) -> Tensor:
    """Rows of a projection to heads, the two halves of each head woven into pairs.

    Queries and keys woven alike have the scores they had, and a pair is turned by one complex product: half the passes
    over memory of the sum of two products.
    """
    halves = x_IA.view(-1, 2, head_dim // 2, *x_IA.shape[1:])
    return halves.transpose(1, 2).reshape(x_IA.shape)


def _rotated(x_SHP: Tensor, angle_S1R: Tensor) -> Tensor:
    turned_SHR = torch.view_as_complex(x_SHP.float().unflatten(2, (-1, 2))) * angle_S1R  # type: ignore[no-untyped-call]
    return torch.view_as_real(turned_SHR).flatten(2).to(x_SHP.dtype)


def attend(query_QHP: Tensor, keys_values: tuple[Tensor, Tensor], layout: Layout, prefix: KeysValues | None) -> Tensor:
    """What each query reads [Q, D].

    Args:
        query_QHP: scaled, of all tokens, or of the last token of each text.
        keys_values: key_SGP and value_SGP of all tokens.
        layout: of the texts.
        prefix: that every text stands behind.
    """
    key_SGP, value_SGP = keys_values
    of_last = len(query_QHP) == len(layout.lengths_B) < len(key_SGP)
    read, first_text = [], 0
    for span in layout.spans:
        queried = slice(first_text, first_text + span.num_texts) if of_last else span.tokens
        query_BQHP = query_QHP[queried].view(span.num_texts, -1, *query_QHP.shape[1:])
        key_BGKP = _behind(None if prefix is None else prefix[0], key_SGP[span.tokens], span.num_texts)
        value_BGKP = _behind(None if prefix is None else prefix[1], value_SGP[span.tokens], span.num_texts)
        read.append(_read_in_blocks(query_BQHP, key_BGKP, value_BGKP))
        first_text += span.num_texts
    return read[0] if len(read) == 1 else torch.cat(read)


def _behind(prefix_GCP: Tensor | None, own_SGP: Tensor, num_texts: int) -> Tensor:
    """The prefix, then each text's own [B, G, K, P]."""
    own_BGTP = own_SGP.view(num_texts, -1, *own_SGP.shape[1:]).transpose(1, 2)
    if prefix_GCP is None:
        return own_BGTP.contiguous()
    return torch.cat([prefix_GCP.expand(num_texts, -1, -1, -1), own_BGTP], dim=2)


def _read_in_blocks(query_BQHP: Tensor, key_BGKP: Tensor, value_BGKP: Tensor) -> Tensor:
    """Each query sees the keys up to its own place, the last query all of them; [B·Q, D]."""
    num_texts, num_queries, num_heads = query_BQHP.shape[:3]
    num_keys = key_BGKP.shape[2]
    is_on_cpu = query_BQHP.device.type == "cpu"
    if num_keys >= (FUSED_TOKENS if is_on_cpu else FUSED_TOKENS_ELSEWHERE):
        return _read_fused(query_BQHP, key_BGKP, value_BGKP)
    size = max(MOST_SCORES // (num_texts * num_heads * num_keys), LEAST_QUERIES)
    if num_queries <= size or not is_on_cpu:
        return _read(query_BQHP, key_BGKP, value_BGKP)
    blocks = []
    for start in range(0, num_queries, size):
        end = min(start + size, num_queries)
        seen = slice(num_keys - num_queries + end)
        read = _read(query_BQHP[:, start:end], key_BGKP[:, :, seen], value_BGKP[:, :, seen])
        blocks.append(read.view(num_texts, end - start, -1))
    return torch.cat(blocks, dim=1).flatten(0, 1)


def _read(query_BQHP: Tensor, key_BGKP: Tensor, value_BGKP: Tensor) -> Tensor:
    """The same of queries whose last one sees all the keys."""
    num_texts, num_queries, num_heads, head_dim = query_BQHP.shape
    num_groups, num_keys = key_BGKP.shape[1:3]
    query_BGNQP = query_BQHP.view(num_texts, num_queries, num_groups, -1, head_dim).permute(0, 2, 3, 1, 4)
    query = query_BGNQP.reshape(num_texts * num_groups, -1, head_dim)
    scores = torch.bmm(query, key_BGKP.flatten(0, 1).transpose(1, 2)).view(-1, num_queries, num_keys)
    if num_queries > 1:
        scores += _hidden(num_queries, num_keys, scores)
    # torch's softmax over bfloat16 takes three times as long as the one over float32 and its rounding together.
    weights = scores.softmax(dim=-1, dtype=torch.float32).to(scores.dtype)
    read = torch.bmm(weights.view(num_texts * num_groups, -1, num_keys), value_BGKP.flatten(0, 1))
    read_BGNQP = read.view(num_texts, num_groups, -1, num_queries, head_dim)
    return read_BGNQP.permute(0, 3, 1, 2, 4).reshape(num_texts * num_queries, num_heads * head_dim)


def _read_fused(query_BQHP: Tensor, key_BGKP: Tensor, value_BGKP: Tensor) -> Tensor:
    num_queries, num_keys = query_BQHP.shape[1], key_BGKP.shape[2]
    repeats = query_BQHP.shape[2] // key_BGKP.shape[1]
    read_BHQP = torch.nn.functional.scaled_dot_product_attention(
        query_BQHP.transpose(1, 2),
        key_BGKP.repeat_interleave(repeats, dim=1),
        value_BGKP.repeat_interleave(repeats, dim=1),
        attn_mask=_hidden(num_queries, num_keys, query_BQHP),
        scale=1.0,
    )
    return read_BHQP.transpose(1, 2).flatten(2).flatten(0, 1)


def _hidden(num_queries: int, num_keys: int, like: Tensor) -> Tensor:
    """−∞ where a key stands after the query [Q, K]."""
    return like.new_full((num_queries, num_keys), -torch.inf).triu_(num_keys - num_queries + 1)
