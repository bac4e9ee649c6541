"""Batches of token sequences by padded size: rows sorted by length, as many as a token budget holds.

Sorting keeps padding at 6-12% of the tokens, where batches in row order waste 27-36%.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

from msd_models.language_model import cpu_threads

T = TypeVar("T")
R = TypeVar("R")


def token_batches(lengths: Sequence[int], batch_tokens: int) -> Iterator[list[int]]:
    """Row numbers, longest rows first, each batch within batch_tokens padded tokens (at least one row)."""
    order = sorted(range(len(lengths)), key=lambda row: (-lengths[row], row))
    start = 0
    while start < len(order):
        count = max(batch_tokens // max(lengths[order[start]], 1), 1)
        yield order[start : start + count]
        start += count


def packed_batches(lengths: Sequence[int], batch_tokens: int) -> Iterator[list[int]]:
    """Row numbers, longest rows first, each batch within batch_tokens tokens without any padding (at least one row)."""
    batch: list[int] = []
    num_tokens = 0
    for row in sorted(range(len(lengths)), key=lambda row: (-lengths[row], row)):
        if batch and num_tokens + lengths[row] > batch_tokens:
            yield batch
            batch, num_tokens = [], 0
        batch.append(row)
        num_tokens += lengths[row]
    if batch:
        yield batch


def pad(rows: Sequence[Sequence[int]], fill: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids [B, T] padded on the right, and the mask [B, T] that is 1 on real tokens."""
    width = max((len(row) for row in rows), default=0)
    ids_BT = torch.full((len(rows), width), fill, dtype=torch.long)
    mask_BT = torch.zeros((len(rows), width), dtype=torch.long)
    for number, row in enumerate(rows):
        ids_BT[number, : len(row)] = torch.tensor(row, dtype=torch.long)
        mask_BT[number, : len(row)] = 1
    return ids_BT, mask_BT


def map_batches(work: Callable[[T], R], batches: Iterable[T], device: torch.device) -> Iterator[R]:
    """`work` of every batch, in order; on a CPU each core takes whole batches, one thread each.

    Small matrix products split over threads wait for the slowest thread hundreds of times a batch, which on a machine
    with other work costs several times the arithmetic; batches side by side never wait for each other.
    """
    threads = torch.get_num_threads()
    if device.type != "cpu" or threads == 1:
        yield from map(work, batches)
        return
    one_each = ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,))
    with cpu_threads(1), one_each as pool:
        yield from pool.map(work, batches)
