"""A training's state on disk: weights, the best epoch's weights, optimisers and how far it is.

Tensors lie in one safetensors file whose header holds the rest as JSON, written whole or not at all: a training killed
at any moment goes on at its last checkpoint, to the same result, as the random numbers of a step depend on its number
alone. Nothing of it is pickled.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.storage import write_atomically


@dataclass(kw_only=True)
class Progress:
    """How far a training is."""

    epoch: int = 0
    """Whole epochs that are done, their valid AUC known."""
    step: int = 0
    """Steps done of the epoch under way."""
    valid_auc: list[float] = field(default_factory=list)
    best_epoch: int = 0
    train_seconds: float = 0.0
    wait_seconds: float = 0.0
    rows: int = 0
    """Training rows seen."""


def save_state(
    path: Path,
    network: nn.Module,
    best: Mapping[str, Tensor],
    optimisers: list[torch.optim.Optimizer],
    progress: Progress,
) -> None:
    """Writes the state.

    Args:
        path: of the file.
        network: with the current weights.
        best: state of the best epoch so far.
        optimisers: of the network, always in the same order.
        progress: how far the training is.
    """
    from safetensors.torch import save

    tensors = {f"network/{name}": tensor for name, tensor in network.state_dict().items()}
    tensors |= {f"best/{name}": tensor for name, tensor in best.items()}
    for number, optimiser in enumerate(optimisers):
        for key, name, tensor in _optimiser_tensors(optimiser):
            tensors[f"optimiser/{number}/{key}/{name}"] = tensor
    whole = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    write_atomically(path, save(whole, {"progress": json.dumps(asdict(progress))}))


def load_state(
    path: Path, network: nn.Module, optimisers: list[torch.optim.Optimizer]
) -> tuple[Progress, dict[str, Tensor]]:
    """Sets network and optimisers to what the file holds; returns the progress and the best state."""
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        told: Any = json.loads(file.metadata()["progress"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    network.load_state_dict(_under("network/", tensors))
    for number, optimiser in enumerate(optimisers):
        _load_optimiser(optimiser, _under(f"optimiser/{number}/", tensors))
    return Progress(**told), _under("best/", tensors)


def _optimiser_tensors(optimiser: torch.optim.Optimizer) -> Iterator[tuple[int, str, Tensor]]:
    """State by the parameter's number, as `Optimizer.state_dict` numbers them."""
    for key, state in optimiser.state_dict()["state"].items():
        for name, value in state.items():
            yield key, name, value if isinstance(value, Tensor) else torch.tensor(value)


def _load_optimiser(optimiser: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    state: dict[int, dict[str, Tensor]] = {}
    for place, tensor in tensors.items():
        key, name = place.split("/")
        state.setdefault(int(key), {})[name] = tensor
    optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
