"""Whether a model can be sampled as the sampler does it: left padding, positions given, a cache of keys and values."""

from typing import Any

import torch
from transformers import DynamicCache

from proximo.language.stack import Stack
from proximo.runs.errors import UserError
from proximo.runs.own_module import on_one_line

_TOLERANCE = {torch.float32: 1e-3}  # of the largest state; 0.1 in other types


@torch.no_grad()
def check_cache(model: Any) -> None:
    """Refuses a causal language model whose last hidden states are others with a cache and left padding than without.

    Some remember a state instead of keys and values (Mamba), some bring a cache of their own (MiniMax), some have none.

    Args:
        model: of `transformers`, in evaluation mode; a handful of tokens goes through it.

    Raises:
        UserError: it is one of these.
    """
    decoder = model.get_decoder()
    vocabulary = model.get_input_embeddings().num_embeddings
    tokens = (torch.arange(1, 7, device=model.device) % vocabulary).repeat(2, 1)
    try:
        whole, _ = Stack([decoder])(tokens)
        short, _ = Stack([decoder])(tokens[1:, 2:6])  # the second row without what will be its padding
        stepped = _stepped(decoder, tokens)
    except Exception as error:  # whatever an architecture of its own kind stumbles over
        raise UserError(f"{_unfit(model)} ({on_one_line(error)}): use another model") from error
    expected = torch.stack([whole[0, -1], short[0, -1]]).float()
    gap, size = float((stepped.float() - expected).abs().max()), float(expected.abs().max())
    if not gap <= _TOLERANCE.get(whole.dtype, 0.1) * size and bool(expected.isfinite().all()):
        raise UserError(f"{_unfit(model)} (its states differ by {gap:.2g}): use another model")


def _stepped(decoder: Any, tokens: torch.Tensor) -> torch.Tensor:
    """States of the last token, read alone after the others; the second row's first two are padding."""
    mask = torch.ones_like(tokens)
    mask[1, :2] = 0
    positions = (mask.cumsum(1) - 1).clamp_min(0)
    stack, caches = Stack([decoder]), [DynamicCache()]
    stack.step(tokens[:, :-1], mask[:, :-1], positions[:, :-1], caches)
    return stack.step(tokens[:, -1:], mask, positions[:, -1:], caches)[0][:, -1]


def _unfit(model: Any) -> str:
    return f"{type(model).__name__} can not be sampled with left padding and a cache of keys and values"
