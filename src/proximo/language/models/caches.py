"""Caches of keys and values in the type that is computed in, and whether a model can be sampled with one."""

from typing import Any, Literal

import torch
from torch import Tensor
from transformers import DynamicCache, StaticCache

from proximo.errors import UserError
from proximo.language.compute.precision import computing
from proximo.language.models.decoder import Stack
from proximo.runs.plugins import on_one_line

Kind = Literal["dynamic", "static"]
"""static has fixed shapes, for CUDA; of a dynamic one, finished rows can be dropped."""

_TOLERANCE = {torch.float32: 1e-3}  # of the largest state; 0.1 in other types


class _Dynamic(DynamicCache):
    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **settings: Any) -> tuple[Tensor, Tensor]:
        return super().update(*_computed_in(key_states, value_states), *args, **settings)


class _Static(StaticCache):
    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **settings: Any) -> tuple[Tensor, Tensor]:
        return super().update(*_computed_in(key_states, value_states), *args, **settings)


def _computed_in(keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """Keys and values in one type: rotary embeddings leave keys in float32 where autocast makes values bfloat16.

    Attention computes in that type anyhow, so nothing is lost. A static cache takes keys and values of one type only,
    and a dynamic one would hold both in float32.
    """
    device = values.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else values.dtype
    return keys.to(dtype), values.to(dtype)


def make_cache(part: Any, kind: Kind, length: int) -> Any:
    """An empty cache for a decoder or a part of one; `length` tokens are what a static one has room for."""
    return _Static(config=part.config, max_cache_len=length) if kind == "static" else _Dynamic()


def usable_cache(model: Any, kind: Kind = "dynamic", compute: str = "float32") -> Kind:
    """The kind of cache to sample a causal language model with; dynamic where it can not use a static one (Bloom).

    Tried out: with a cache and left padding, the last hidden states must be those without. Some architectures remember
    a state instead of keys and values (Mamba), some bring a cache of their own (MiniMax), some have none.

    Args:
        model: of `transformers`, in evaluation mode; a handful of tokens goes through it.
        kind: what is wanted.
        compute: type of the matrix products while sampling.

    Raises:
        UserError: it can not be sampled with either kind.
    """
    if kind == "static" and not _fault(model, kind, compute):
        return kind
    if fault := _fault(model, "dynamic", compute):
        raise UserError(
            f"{type(model).__name__} can not be sampled with left padding and a cache of keys and values ({fault}): "
            "use another model"
        )
    return "dynamic"


@torch.no_grad()
def _fault(model: Any, kind: Kind, compute: str) -> str:
    """What is wrong with a kind of cache; "" if nothing is."""
    decoder = model.get_decoder()
    vocabulary = model.get_input_embeddings().num_embeddings
    tokens = (torch.arange(1, 7, device=model.device) % vocabulary).repeat(2, 1)
    try:
        with computing(model.device, compute):
            whole, _ = Stack([decoder])(tokens)
            short, _ = Stack([decoder])(tokens[1:, 2:6])  # the second row without what will be its padding
            stepped = _stepped(decoder, tokens, kind)
    except Exception as error:  # whatever an architecture of its own kind stumbles over
        return on_one_line(error)
    expected = torch.stack([whole[0, -1], short[0, -1]]).float()
    gap, size = float((stepped.float() - expected).abs().max()), float(expected.abs().max())
    # Under autocast the last norm may give float32 of what was computed in bfloat16.
    dtype = torch.bfloat16 if compute == "bfloat16" else whole.dtype
    if gap <= _TOLERANCE.get(dtype, 0.1) * size or not bool(expected.isfinite().all()):
        return ""
    return f"its states differ by {gap:.2g}"


def _stepped(decoder: Any, tokens: Tensor, kind: Kind) -> Tensor:
    """States of the last token, read alone after the others; the second row's first two are padding."""
    mask = torch.ones_like(tokens)
    mask[1, :2] = 0
    positions = (mask.cumsum(1) - 1).clamp_min(0)
    stack, caches = Stack([decoder]), [make_cache(decoder, kind, tokens.shape[1])]
    stack.step(tokens[:, :-1], mask[:, :-1], positions[:, :-1], caches)
    return stack.step(tokens[:, -1:], mask, positions[:, -1:], caches)[0][:, -1]
