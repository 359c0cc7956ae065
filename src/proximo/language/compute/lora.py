"""A linear layer with a low-rank adapter (Hu et al. 2021) as one operation.

    y = x W^T + s (x A^T) B^T      dx = g W + s (g B) A      dA = s (g B)^T x      dB = s g^T (x A^T)

`peft` adds the adapter's output in three steps that each make a tensor as large as y, and autograd takes three back;
here both products are added in place. Weights, names, files and everything else stay `peft`'s.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from peft.tuners.lora import Linear
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from proximo.language.compute.matmul import product


class FusedLoraLinear(Linear):
    """`peft`'s adapter of a linear layer; one plain adapter on a frozen layer takes the short way."""

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """`[..., inputs]` to `[..., outputs]`."""
        name = self._short_way(x)
        if args or kwargs or name is None:
            return super().forward(x, *args, **kwargs)
        base: Any = self.get_base_layer()
        a, b = self.lora_A[name].weight, self.lora_B[name].weight
        rows = _LowRank.apply(x.reshape(-1, x.shape[-1]), base.weight, base.bias, a, b, self.scaling[name])
        # Viewed out here: some models (Falcon) add to it in place, which autograd forbids of a view made in there.
        return rows.view(*x.shape[:-1], -1)

    def _short_way(self, x: Tensor) -> str | None:
        """The adapter to run, if it is one and nothing about it is special."""
        if self.disable_adapters or self.merged or len(self.active_adapters) != 1:
            return None
        name = self.active_adapters[0]
        if name not in self.lora_A or name in self.lora_variant or torch.is_autocast_enabled(x.device.type):
            return None
        base: Any = self.get_base_layer()
        weight = base.weight
        plain = isinstance(self.lora_dropout[name], nn.Identity) and self.lora_B[name].bias is None
        same = x.dtype == weight.dtype == self.lora_A[name].weight.dtype
        return name if plain and same and not weight.requires_grad else None


def fused(config: Any) -> Any:
    """`config` of peft with `FusedLoraLinear` for its linear layers. A private name of peft is asked for it."""
    config._register_custom_module({nn.Linear: FusedLoraLinear})
    return config


def draw_adapters(model: nn.Module, generator: torch.Generator) -> None:
    """Draw every adapter's A anew, as `peft` does (B is 0): uniform within 1 / √inputs.

    `peft` draws from torch's global stream, which another thread of the process may move meanwhile.
    """
    for layer in (m for m in model.modules() if isinstance(m, Linear)):
        for a in layer.lora_A.parameters():
            drawn = torch.rand(a.shape, generator=generator)
            a.data.copy_((2.0 * drawn - 1.0) / math.sqrt(a.shape[1]))


@contextmanager
def as_adapter(model: nn.Module, name: str | None) -> Iterator[None]:
    """Another adapter, or none. peft's own switches also touch `requires_grad`, which the optimiser relies on, so that
    its private names are set.
    """
    layers = [m for m in model.modules() if isinstance(m, BaseTunerLayer)]
    before = [(layer._active_adapter, layer._disable_adapters) for layer in layers]
    try:
        for layer in layers:
            layer._disable_adapters = name is None
            if name is not None:
                layer._active_adapter = [name]
        yield
    finally:
        for layer, (active, disabled) in zip(layers, before, strict=True):
            layer._active_adapter, layer._disable_adapters = active, disabled


@torch.no_grad()
def merged_weight(layer: Any, name: str) -> Tensor:
    """The weight of a layer with an adapter of `peft` added in, in the layer's own type.

    Autocast is off: an adapter's small change of a large weight would be rounded away in bfloat16.
    """
    weight = layer.get_base_layer().weight.detach()
    with torch.autocast(weight.device.type, enabled=False):
        if not isinstance(layer, FusedLoraLinear):  # Conv1D of GPT-2, whose weight lies the other way
            return weight + layer.get_delta_weight(name).to(weight.dtype)
        parts: list[Any] = [layer.lora_A, layer.lora_B]
        a, b = (part[name].weight.detach().to(weight.dtype) for part in parts)
        return torch.addmm(weight, b, a, alpha=layer.scaling[name])


class _LowRank(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor, scale: float) -> Any:
        low = product(rows, a)
        ctx.save_for_backward(rows, low, weight, a, b)
        ctx.scale = scale
        return product(rows, weight, bias).addmm_(low, b.t(), alpha=scale)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        rows, low, weight, a, b = ctx.saved_tensors
        up = gradients[0].contiguous()
        up_low = product(up, b.t().contiguous()).mul_(ctx.scale)
        to_rows = product(up, weight.t()).addmm_(up_low, a) if ctx.needs_input_grad[0] else None
        # (g^T low) is taken as (low^T g)^T: the long product then has few rows instead of few columns.
        return to_rows, None, None, up_low.t() @ rows, (low.t() @ up).mul_(ctx.scale).t(), None
