"""Optimisers of a CTR network: Adam, and for tables with sparse gradients one that touches the rows a batch names.

Row-wise AdaGrad keeps one number a row instead of two a weight: for a table of 100 million ids of width 16 that is
0.4 GB of state instead of 12.8 (Naumov et al. 2019, arXiv 1906.00091; row-wise: FBGEMM's `rowwise_adagrad`).
"""

from collections.abc import Callable, Iterable
from enum import StrEnum
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.config import CtrModel


class EmbeddingOptimiser(StrEnum):
    """Choices of [ctr_model] embedding_optimiser."""

    AUTO = "auto"
    ADAM = "adam"
    SPARSE_ADAM = "sparse_adam"
    ROWWISE_ADAGRAD = "rowwise_adagrad"


class RowwiseAdagrad(torch.optim.Optimizer):
    """AdaGrad with one accumulator a row: the sum over steps of the mean square of the row's gradient."""

    def __init__(self, tables: Iterable[Tensor], lr: float, eps: float = 1e-10) -> None:
        """Takes two-dimensional parameters whose gradients are sparse.

        Args:
            tables: [R, D] each.
            lr: length of a row's first step.
            eps: keeps a row without a gradient from a division by nought.
        """
        super().__init__(tables, {"lr": lr, "eps": eps})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """Moves the rows that have a gradient."""
        assert closure is None
        for group in self.param_groups:
            for table in group["params"]:
                if table.grad is None:
                    continue
                state = self.state[table]
                if not state:
                    state["sum_R"] = torch.zeros(len(table), dtype=torch.float32, device=table.device)
                _move_rows(table, table.grad.coalesce(), state["sum_R"], group["lr"], group["eps"])


def _move_rows(table: Tensor, gradient: Tensor, sum_R: Tensor, rate: float, eps: float) -> None:
    rows_U, values_UD = gradient.indices()[0], gradient.values()
    sum_U = sum_R[rows_U] + values_UD.square().mean(dim=1)
    sum_R[rows_U] = sum_U
    table.index_add_(0, rows_U, values_UD * (-rate / (sum_U.sqrt() + eps)).unsqueeze(1))


def optimisers_of(network: nn.Module, config: CtrModel) -> list[torch.optim.Optimizer]:
    """Adam for dense gradients; for sparse tables what config names.

    Args:
        network: its embedding tables say themselves whether their gradients are sparse.
        config: learning_rate and embedding_optimiser.
    """
    sparse = [module.weight for module in network.modules() if isinstance(module, nn.Embedding) and module.sparse]
    known = {id(parameter) for parameter in sparse}
    dense = [one for one in network.parameters() if id(one) not in known and one.requires_grad]
    optimisers: list[torch.optim.Optimizer] = [torch.optim.Adam(dense, lr=config.learning_rate, fused=True)]
    sparse = [parameter for parameter in sparse if parameter.requires_grad]
    if sparse and config.embedding_optimiser == EmbeddingOptimiser.SPARSE_ADAM:
        optimisers.append(torch.optim.SparseAdam(sparse, lr=config.learning_rate))
    elif sparse:
        optimisers.append(RowwiseAdagrad(sparse, lr=config.learning_rate))
    return optimisers
