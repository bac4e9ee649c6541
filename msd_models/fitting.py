"""The one training loop of every arm: Adam on shuffled batches, stopped by the valid AUC, the best epoch kept.

There is no loader: the examples are tensors already, and a batch is gathered by row numbers in well under a
millisecond. The loop reports what share of the time that took.
"""

# Letters: N examples, B of them in a batch.

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from msd_models.arms import CtrNetwork
from msd_models.backbones import FieldEmbeddings
from msd_models.ctr_inputs import Batch, CtrInputs
from msd_models.metrics import auc
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
    """Share of the training time spent gathering batches."""


def fit(network: CtrNetwork, inputs: CtrInputs, config: CtrModel, seed: int, advance: Callable[[float], None]) -> Fit:
    """Trains in place, and leaves the weights of the epoch with the best valid AUC.

    Args:
        network: as built; on the device it is to train on.
        inputs: all examples; test is not touched.
        config: of the stage.
        seed: of shuffling, dropout and masking; the same for all arms, so that they see the same batches.
        advance: is told the rows done.
    """
    torch.manual_seed(seed)
    optimisers = _optimisers(network, config)
    train, valid = inputs.split_rows["train"], inputs.split_rows["valid"]
    valid_click = inputs.click_N[valid].numpy().astype(np.int8)
    best = copy.deepcopy(network.state_dict())
    valid_auc: list[float] = []
    best_epoch, train_seconds, wait_seconds = 0, 0.0, 0.0
    while len(valid_auc) < config.max_epochs and len(valid_auc) == best_epoch:
        started = time.perf_counter()
        wait_seconds += _epoch(network, inputs, train[torch.randperm(len(train))], optimisers, config, advance)
        train_seconds += time.perf_counter() - started
        valid_auc.append(auc(valid_click, score(network, inputs, valid)))
        if valid_auc[-1] > max(valid_auc[:-1], default=-1.0):
            best_epoch, best = len(valid_auc), copy.deepcopy(network.state_dict())
    network.load_state_dict(best)
    return Fit(
        epochs=len(valid_auc),
        best_epoch=best_epoch,
        valid_auc=tuple(valid_auc),
        train_seconds=train_seconds,
        samples_per_second=len(valid_auc) * len(train) / train_seconds,
        wait_share=wait_seconds / train_seconds,
    )


@torch.no_grad()
def score(network: CtrNetwork, inputs: CtrInputs, rows: Tensor) -> npt.NDArray[np.float32]:
    """Click probabilities of the named examples."""
    was_training = network.training
    network.eval()
    device = next(network.parameters()).device
    logits = [network(inputs.batch(part).to(device)) for part in torch.split(rows, SCORING_ROWS)]
    network.train(was_training)
    return torch.sigmoid(torch.cat(logits)).cpu().numpy()


def batch_rows(num_train: int, batch_size: int) -> int:
    """Rows per step: batch_size, or fewer where an epoch would have fewer than MIN_STEPS steps."""
    return min(batch_size, max(MIN_BATCH, num_train // MIN_STEPS))


def _epoch(
    network: CtrNetwork,
    inputs: CtrInputs,
    shuffled_N: Tensor,
    optimisers: list[torch.optim.Optimizer],
    config: CtrModel,
    advance: Callable[[float], None],
) -> float:
    """One pass; returns the seconds spent gathering batches."""
    network.train()
    device = next(network.parameters()).device
    loss_function = nn.BCEWithLogitsLoss()
    wait_seconds = 0.0
    for rows_B in torch.split(shuffled_N, batch_rows(len(shuffled_N), config.batch_size)):
        started = time.perf_counter()
        batch = inputs.batch(rows_B).to(device)
        if config.id_dropout:
            _forget_targets(batch, inputs, config.id_dropout)
        wait_seconds += time.perf_counter() - started
        loss = loss_function(network(batch), batch.click_B) + config.weight_decay * _squares(network, batch)
        for optimiser in optimisers:
            optimiser.zero_grad()
        loss.backward()
        for optimiser in optimisers:
            optimiser.step()
        advance(len(rows_B))
    return wait_seconds


def _forget_targets(batch: Batch, inputs: CtrInputs, share: float) -> None:
    """Replaces the target's id by the unknown one in a share of the rows, as a cold item will have it."""
    position, field = next((number, field) for number, field in enumerate(inputs.fields) if field.name == "item_id")
    is_forgotten_B = torch.rand(len(batch.codes_BF), device=batch.codes_BF.device) < share
    batch.codes_BF[:, position].masked_fill_(is_forgotten_B, field.offset)


def _squares(network: CtrNetwork, batch: Batch) -> Tensor:
    """Mean over the batch of the squared length of the field embeddings it reads."""
    embeddings = network.backbone.embeddings
    assert isinstance(embeddings, FieldEmbeddings)
    return embeddings(batch).square().sum((1, 2)).mean()


def _optimisers(network: CtrNetwork, config: CtrModel) -> list[torch.optim.Optimizer]:
    """Adam; its sparse form for tables whose gradients are sparse."""
    sparse = [module.weight for module in network.modules() if isinstance(module, nn.Embedding) and module.sparse]
    known = {id(parameter) for parameter in sparse}
    dense = [parameter for parameter in network.parameters() if id(parameter) not in known]
    optimisers: list[torch.optim.Optimizer] = [torch.optim.Adam(dense, lr=config.learning_rate, fused=True)]
    if sparse:
        optimisers.append(torch.optim.SparseAdam(sparse, lr=config.learning_rate))
    return optimisers
