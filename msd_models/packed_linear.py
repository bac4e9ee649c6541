"""Matrix products of a packed model, the elementwise work that follows them done on the way out where it can be.

On a CPU oneDNN takes weights in the layout its kernels read and applies the gate and the product with it to a tile of
the result while that lies in a register: two passes over memory fewer a layer.
"""

from typing import Any, Protocol

import torch
from torch import Tensor, nn

# S tokens, I inputs, O outputs

ROWS_HINT = 512
"""Tokens oneDNN chooses its layout for; it takes any number."""

ZERO_POINT = 128
"""What nought is as an unsigned byte: the processor multiplies unsigned activations by signed weights."""
Weights = tuple[Tensor, Tensor | None]
"""weight_OI and bias_O."""


class Projection(Protocol):
    """x_SI·Wᵀ + b, and what may follow it."""

    def __call__(self, x_SI: Tensor) -> Tensor:
        """The product [S, O]."""

    def silu(self, x_SI: Tensor) -> Tensor:
        """SiLU of the product."""

    def times(self, x_SI: Tensor, factor_SO: Tensor) -> Tensor:
        """The product times factor_SO."""


def weights_of(linear: nn.Linear, norm: Any = None) -> Weights:
    """Of a layer of torch, times those of the RMSNorm before it where there is one."""
    weight_OI = linear.weight.detach()
    if norm is not None:
        weight_OI = (weight_OI.float() * norm.weight.detach().float()).to(weight_OI.dtype)
    return weight_OI, None if linear.bias is None else linear.bias.detach()


def side_by_side(one: Weights, other: Weights) -> Weights:
    """One product for two of the same input, the outputs of `one` first; both have a bias or neither has."""
    bias_O = None if one[1] is None or other[1] is None else torch.cat([one[1], other[1]])
    return torch.cat([one[0], other[0]]), bias_O


def project(weights: Weights, dtype: torch.dtype) -> Projection:
    """The fastest form of the product on this device.

    Args:
        weights: on their device, in the dtype of the states around them.
        dtype: of the multiplication: that of the states, or int8 on a CPU.
    """
    weight_OI, bias_O = weights
    if dtype == torch.int8:
        return Int8Projection(weight_OI, bias_O)
    if weight_OI.device.type == "cpu" and _has_onednn(weight_OI.dtype):
        return OneDnnProjection(weight_OI, bias_O)
    return PlainProjection(weight_OI, bias_O)


class PlainProjection:
    """torch's own linear."""

    def __init__(self, weight_OI: Tensor, bias_O: Tensor | None) -> None:
        """Keeps the weights."""
        self.weight_OI, self.bias_O = weight_OI, bias_O

    def __call__(self, x_SI: Tensor) -> Tensor:
        """The product [S, O]."""
        return nn.functional.linear(x_SI, self.weight_OI, self.bias_O)

    def silu(self, x_SI: Tensor) -> Tensor:
        """SiLU of the product."""
        return nn.functional.silu(self(x_SI), inplace=True)

    def times(self, x_SI: Tensor, factor_SO: Tensor) -> Tensor:
        """The product times factor_SO."""
        return self(x_SI).mul_(factor_SO)


class OneDnnProjection:
    """oneDNN's linear, weights laid out once; the operators torch.compile itself calls on a CPU."""

    def __init__(self, weight_OI: Tensor, bias_O: Tensor | None) -> None:
        """Lays out the weights."""
        self.weight = torch.ops.mkldnn._reorder_linear_weight(weight_OI.contiguous(), ROWS_HINT)
        self.bias_O = bias_O

    def __call__(self, x_SI: Tensor) -> Tensor:
        """The product [S, O]."""
        return torch.ops.mkldnn._linear_pointwise(x_SI, self.weight, self.bias_O, "none", [], "")

    def silu(self, x_SI: Tensor) -> Tensor:
        """SiLU of the product."""
        return torch.ops.mkldnn._linear_pointwise(x_SI, self.weight, self.bias_O, "swish", [1.0], "")

    def times(self, x_SI: Tensor, factor_SO: Tensor) -> Tensor:
        """The product times factor_SO."""
        return torch.ops.mkldnn._linear_pointwise.binary(x_SI, factor_SO, self.weight, self.bias_O, "mul")


class Int8Projection(PlainProjection):
    """Eight-bit weights, one scale an output, times eight-bit activations, one scale a token, summed in 32 bits."""

    def __init__(self, weight_OI: Tensor, bias_O: Tensor | None) -> None:
        """Rounds the weights."""
        self.scale_O = weight_OI.float().abs().amax(dim=1).clamp(min=1e-12) / 127
        self.bias_O = bias_O
        rounded_OI = (weight_OI.float() / self.scale_O[:, None]).round_().to(torch.int8)
        # Without these instructions oneDNN's eight-bit products may overflow between two additions.
        self.is_fused = torch._C._has_mkldnn and torch.cpu._is_vnni_supported()
        if self.is_fused:
            self.zero_O = torch.zeros(len(rounded_OI), dtype=torch.int64)
            self.weight = torch.ops.onednn.qlinear_prepack(rounded_OI, None)
        else:
            self.weight = rounded_OI.t().contiguous()

    def __call__(self, x_SI: Tensor) -> Tensor:
        """The product [S, O]."""
        scale_S1 = x_SI.abs().amax(dim=1, keepdim=True).float().clamp_(min=1e-12).div_(127)
        rounded_SI = x_SI.float().div_(scale_S1).round_()
        if self.is_fused:
            product_SO = self._fused(rounded_SI.add_(ZERO_POINT).to(torch.uint8), x_SI.dtype)
        else:
            product_SO = (torch._int_mm(rounded_SI.to(torch.int8), self.weight) * self.scale_O).to(x_SI.dtype)
        product_SO *= scale_S1.to(x_SI.dtype)
        return product_SO if self.bias_O is None else product_SO.add_(self.bias_O)

    def _fused(self, x_SI: Tensor, dtype: torch.dtype) -> Tensor:
        """The product with the weights' scales, which leaves the 32-bit sums in registers."""
        made: Tensor = torch.ops.onednn.qlinear_pointwise(
            x_SI, 1.0, ZERO_POINT, self.weight, self.scale_O, self.zero_O, None, 1.0, 0, dtype, "none", [], ""
        )
        return made


def _has_onednn(dtype: torch.dtype) -> bool:
    """Whether oneDNN is there and this processor has the instructions it wants."""
    if dtype == torch.bfloat16:
        return torch._C._has_mkldnn and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    if dtype == torch.float16:
        return torch._C._has_mkldnn and bool(torch.ops.mkldnn._is_mkldnn_fp16_supported())
    return torch._C._has_mkldnn
