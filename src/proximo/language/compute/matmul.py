"""Float32 matrix products on a CPU by oneDNN, which torch ships, where torch itself would ask MKL and MKL holds back.

On AMD processors with AVX-512 oneDNN's products are a fifth to a third faster than MKL's at the shapes of a language
model, and as exact. Elsewhere, and for other types, everything stays as torch does it.
"""

from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn


@cache
def onednn_is_faster() -> bool:
    """Whether this processor is one where oneDNN was measured to be faster. Not measured here and now: a choice that
    depends on the clock would give another run's last bits after a resume.
    """
    try:
        amd = "AuthenticAMD" in Path("/proc/cpuinfo").read_text("utf-8", "replace")
    except OSError:
        return False
    there = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    return amd and there and torch.backends.cpu.get_cpu_capability() == "AVX512"


def product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """X times weight transposed, plus bias; no gradient flows through it.

    Args:
        x: `[n, d]`.
        weight: `[m, d]`.
        bias: `[m]` or None.

    Returns:
        `[n, m]`.
    """
    if _takes(x, weight):
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return nn.functional.linear(x, weight, bias)


class ProductLinear(nn.Linear):
    """A linear layer whose products, backwards too, are `product`'s."""

    def forward(self, x: Tensor) -> Tensor:
        """`[..., inputs]` to `[..., outputs]`."""
        if not _takes(x, self.weight) or torch.is_autocast_enabled("cpu"):
            return super().forward(x)
        y: Tensor = _Linear.apply(x.reshape(-1, x.shape[-1]), self.weight, self.bias)
        return y.view(*x.shape[:-1], -1)


def use_products(model: nn.Module) -> nn.Module:
    """Give a model's linear layers `product`'s products, where these are faster; weights and names stay.

    Returns:
        The same model.
    """
    if onednn_is_faster():
        for module in model.modules():
            if type(module) is nn.Linear:
                module.__class__ = ProductLinear
    return model


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return product(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        x, weight = ctx.saved_tensors
        up = gradients[0].contiguous()
        to_x, to_weight, to_bias = ctx.needs_input_grad
        return (
            product(up, weight.t()) if to_x else None,
            product(up.t(), x.t()) if to_weight else None,
            up.sum(0) if to_bias else None,
        )


def _takes(x: Tensor, weight: Tensor) -> bool:
    plain = x.device.type == weight.device.type == "cpu" and x.dtype == weight.dtype == torch.float32
    return plain and x.numel() > 0 and onednn_is_faster()
