"""The one training loop of every arm: shuffled batches, stopped by the valid AUC, the best epoch kept.

A batch is unpacked from records that lie in memory, a pool at a time. The loop reports what share of the time it waits
for data. With several processes each takes its share of every batch, and DDP averages the gradients.
"""

# Letters: B examples of a batch, N examples of a split.

import copy
import itertools
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from msd_models.ctr_inputs import Batch, CtrInputs
from msd_models.ctr_network import CtrNetwork
from msd_models.embedding_optimiser import optimisers_of
from msd_models.metrics import auc
from msd_models.record_files import Records
from msd_models.training_state import Progress, load_state, save_state
from pipeline.config import CtrModel

SCORING_ROWS = 8192
MIN_STEPS = 50
"""Steps an epoch has at least, as long as batches stay at MIN_BATCH rows: small logs take small batches."""
MIN_BATCH = 32


@dataclass(frozen=True, kw_only=True)
class Fit:
    """How a training went."""

    epochs: int
    best_epoch: int
    """Counted from 1; the network holds its weights."""
    valid_auc: tuple[float, ...]
    train_seconds: float
    samples_per_second: float
    wait_share: float
    """Share of the training time spent reading and unpacking batches."""


@dataclass(frozen=True, kw_only=True)
class Group:
    """The processes that train one network."""

    rank: int = 0
    size: int = 1


ALONE = Group()


def fit(
    network: CtrNetwork,
    inputs: CtrInputs,
    config: CtrModel,
    seed: int,
    advance: Callable[[float], object],
    *,
    checkpoint: Path | None = None,
    group: Group = ALONE,
    after_epoch: Callable[[int, float], None] | None = None,
) -> Fit:
    """Trains in place, and leaves the weights of the epoch with the best valid AUC.

    Args:
        network: as built; on the device it is to train on.
        inputs: all examples; test is not touched.
        config: of the stage, as the arm has it.
        seed: of shuffling, dropout and masking; the same for all arms, so that they see the same batches.
        advance: is told the rows done.
        checkpoint: kept every config.checkpoint_seconds, and gone on from where it is there; None keeps none.
        group: of processes; torch.distributed is set up where there are several.
        after_epoch: is told the number of epochs done and the valid AUC; may raise to stop the training.
    """
    training = _Training(network, inputs, config, seed, group, checkpoint)
    advance(training.progress.rows)
    while training.goes_on():
        training.epoch(advance)
        if after_epoch is not None:
            after_epoch(training.progress.epoch, training.progress.valid_auc[-1])
    network.load_state_dict(training.best)
    done = training.progress
    return Fit(
        epochs=done.epoch,
        best_epoch=done.best_epoch,
        valid_auc=tuple(done.valid_auc),
        train_seconds=done.train_seconds,
        samples_per_second=done.rows / done.train_seconds,
        wait_share=done.wait_seconds / done.train_seconds,
    )


@torch.no_grad()
def score(network: CtrNetwork, inputs: CtrInputs, batches: Iterator[Records]) -> npt.NDArray[np.float32]:
    """Click probabilities of records, in their order."""
    was_training = network.training
    network.eval()
    device = next(network.parameters()).device
    scores = [
        torch.sigmoid(network(inputs.batch(records, with_vectors=network.reads_vectors).to(device)).float()).cpu()
        for records in batches
    ]
    network.train(was_training)
    return torch.cat(scores).numpy() if scores else np.zeros(0, dtype=np.float32)


def batch_rows(num_train: int, batch_size: int) -> int:
    """Rows per step: batch_size, or fewer where an epoch would have fewer than MIN_STEPS steps."""
    return min(batch_size, max(MIN_BATCH, num_train // MIN_STEPS))


class _Loss(nn.Module):
    """What DDP wraps: its forward is the loss, so that every gradient is averaged."""

    def __init__(self, network: CtrNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, batch: Batch) -> Tensor:
        return self.network.loss(batch)


class _Training:
    def __init__(
        self,
        network: CtrNetwork,
        inputs: CtrInputs,
        config: CtrModel,
        seed: int,
        group: Group,
        checkpoint: Path | None,
    ) -> None:
        self.network, self.inputs, self.config, self.seed, self.group = network, inputs, config, seed, group
        self.device = next(network.parameters()).device
        self.optimisers = optimisers_of(network, config)
        self.checkpoint = checkpoint
        self.progress = Progress()
        self.best: Mapping[str, Tensor] = copy.deepcopy(network.state_dict())
        if checkpoint is not None and checkpoint.is_file():
            self.progress, self.best = load_state(checkpoint, network, self.optimisers)
        loss: nn.Module = _Loss(network)
        if group.size > 1:
            loss = _distributed(loss)
        self.loss = loss
        self._saved_at = time.monotonic()

    def goes_on(self) -> bool:
        done = self.progress
        return done.epoch < self.config.max_epochs and done.epoch - done.best_epoch < self.config.patience

    def epoch(self, advance: Callable[[float], object]) -> None:
        """One pass over train, or what is left of it, and a look at valid."""
        self.network.train()
        batches = self._batches()
        while True:
            started = time.perf_counter()
            records = next(batches, None)
            if records is None:
                break
            self._seed_step()
            batch = self._unpacked(records)
            self.progress.wait_seconds += time.perf_counter() - started
            self._step(batch, len(records))
            self.progress.train_seconds += time.perf_counter() - started
            advance(len(records))
            self._keep()
        self._judge()

    def _batches(self) -> Iterator[Records]:
        """Batches of the epoch under way that are not done yet."""
        order = np.random.default_rng([self.seed, self.progress.epoch])
        train = self.inputs.records["train"]
        rows = batch_rows(len(train), self.config.batch_size)
        shuffled = train.shuffled(rows, self.config.pool_rows, order)
        return itertools.islice(shuffled, self.progress.step, None)

    def _seed_step(self) -> None:
        """Masks and dropout depend on the step and the process alone, so that a resumed training draws the same."""
        place = [self.seed, self.progress.epoch, self.progress.step, self.group.rank]
        torch.manual_seed(int(np.random.SeedSequence(place).generate_state(1)[0]))

    def _unpacked(self, records: Records) -> Batch:
        own = records[self.group.rank :: self.group.size]
        batch = self.inputs.batch(own, with_vectors=self.network.learns_from_vectors)
        return _forgetful(batch, self.inputs, self.config).to(self.device)

    def _step(self, batch: Batch, num_rows: int) -> None:
        with _mixed_precision(self.config, self.device):
            loss = self.loss(batch)
        for optimiser in self.optimisers:
            optimiser.zero_grad()
        # DDP averages over processes whose shares may differ by a row.
        (loss * (len(batch) * self.group.size / num_rows)).backward()
        for optimiser in self.optimisers:
            optimiser.step()
        self.progress.step += 1
        self.progress.rows += num_rows

    def _judge(self) -> None:
        valid = self.inputs.records["valid"]
        labels = np.concatenate([part["click"] for part in valid.batches(SCORING_ROWS)]).astype(np.int8)
        value = auc(labels, self._valid_scores())
        done = self.progress
        done.epoch, done.step = done.epoch + 1, 0
        if value > max(done.valid_auc, default=-1.0):
            done.best_epoch, self.best = done.epoch, copy.deepcopy(self.network.state_dict())
        done.valid_auc.append(value)

    def _valid_scores(self) -> npt.NDArray[np.float32]:
        """Of all valid rows, each process scoring every size-th batch."""
        valid = self.inputs.records["valid"]
        own = itertools.islice(valid.batches(SCORING_ROWS), self.group.rank, None, self.group.size)
        scores = score(self.network, self.inputs, own)
        if self.group.size == 1:
            return scores
        return _gathered(scores, len(valid), self.group)

    def _keep(self) -> None:
        """Writes a checkpoint when it is time; the first process alone, as all hold the same weights."""
        due = time.monotonic() - self._saved_at >= self.config.checkpoint_seconds
        if self.checkpoint is None or not due or self.group.rank:
            return
        self.checkpoint.parent.mkdir(parents=True, exist_ok=True)
        save_state(self.checkpoint, self.network, self.best, self.optimisers, self.progress)
        self._saved_at = time.monotonic()


def _distributed(loss: nn.Module) -> nn.Module:
    """The loss under DDP, which then broadcasts moments at every step and nothing that is as long as the catalogue."""
    ddp = nn.parallel.DistributedDataParallel
    constant = {name for name, _ in loss.named_buffers()} - set(loss.state_dict())
    ddp._set_params_and_buffers_to_ignore_for_model(loss, sorted(constant))  # type: ignore[no-untyped-call]
    return ddp(loss, find_unused_parameters=True)


def _forgetful(batch: Batch, inputs: CtrInputs, config: CtrModel) -> Batch:
    """The batch without some target ids and vectors, as a cold item and a miss online will have it."""
    if config.id_dropout:
        position, field = next((number, field) for number, field in enumerate(inputs.fields) if field.name == "item_id")
        is_forgotten_B = torch.rand(len(batch)) < config.id_dropout
        batch.codes_BF[:, position].masked_fill_(is_forgotten_B, field.offset)
    if config.vector_dropout:
        for rows in (batch.item_row_B, batch.user_row_B, batch.context_rows_BQ):
            rows.masked_fill_(torch.rand(rows.shape) < config.vector_dropout, 0)
    return batch


def _mixed_precision(config: CtrModel, device: torch.device) -> AbstractContextManager[object]:
    if config.amp == "bfloat16" or (config.amp == "auto" and device.type == "cuda"):
        return torch.autocast(device.type, dtype=torch.bfloat16)
    return nullcontext()


def _gathered(scores: npt.NDArray[np.float32], total: int, group: Group) -> npt.NDArray[np.float32]:
    """Every process's scores in the order of the rows: batch b was scored by process b modulo size."""
    import torch.distributed as dist

    starts = range(0, total, SCORING_ROWS)
    shares = [
        sum(min(SCORING_ROWS, total - first) for first in starts[rank :: group.size]) for rank in range(group.size)
    ]
    padded = torch.zeros(max(shares))
    padded[: len(scores)] = torch.from_numpy(scores)
    parts = [torch.zeros_like(padded) for _ in shares]
    dist.all_gather(parts, padded)
    whole = np.zeros(total, dtype=np.float32)
    taken = [0] * group.size
    for number, first in enumerate(starts):
        rank, rows = number % group.size, min(SCORING_ROWS, total - first)
        whole[first : first + rows] = parts[rank][taken[rank] : taken[rank] + rows]
        taken[rank] += rows
    return whole
