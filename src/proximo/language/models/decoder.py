"""A decoder in parts, each with its own key-value cache, so that roles can share the lower one.

One part is the whole decoder. Two parts are a trunk of lower layers and a top of upper layers: policy, reference and
critic then share the trunk, and what it says of a token (its *states*) is computed once.
"""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from proximo.errors import UserError


class Stack:
    """Decoder modules of `transformers`, one above the other.

    Args:
        parts: the first reads token ids, each other one the hidden states of the part below.
    """

    def __init__(self, parts: Sequence[nn.Module]) -> None:
        self.parts = list(parts)

    def __call__(self, tokens: Tensor, states: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Hidden states of right-padded sequences.

        No mask is needed: attention is causal and padding only follows, so no real token sees it.

        Args:
            tokens: `[b, L]`.
            states: `[b, L, d]`, what the lower part said, where it is known; it is not run again then.

        Returns:
            `(hidden, states)`, each `[b, L, d]`; states is None for a stack of one part.
        """
        hidden = states
        for part in self.parts[states is not None :]:
            first = part is self.parts[0]
            inputs = {"input_ids": tokens} if first else {"inputs_embeds": hidden}
            hidden = part(**inputs, use_cache=False).last_hidden_state
            if first:
                states = hidden
        assert hidden is not None, "a stack has at least one part"
        return hidden, states if len(self.parts) > 1 else None

    def step(self, tokens: Tensor, mask: Tensor, positions: Tensor, caches: Sequence[Any]) -> tuple[Tensor, Tensor]:
        """Hidden states of new tokens, given what the caches remember.

        Args:
            tokens: `[b, n]`.
            mask: `[b, seen + n]`, 1 where a real token stands.
            positions: `[b, n]`.
            caches: one for each part.

        Returns:
            `(hidden, states)`, each `[b, n, d]`: of the last part and of the first.
        """
        hidden = states = None
        for part, cache in zip(self.parts, caches, strict=True):
            inputs = {"input_ids": tokens} if hidden is None else {"inputs_embeds": hidden}
            hidden = part(
                **inputs, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True
            ).last_hidden_state
            states = hidden if states is None else states
        assert hidden is not None, "a stack has at least one part"
        assert states is not None
        return hidden, states


def check_freeze(decoder: nn.Module, layers: int) -> None:
    """Refuse to freeze more of a decoder's lowest layers than leave one to train.

    Raises:
        UserError: it has no more, or its layers are not where they are looked for.
    """
    found = getattr(decoder, "layers", None)
    if not isinstance(found, nn.ModuleList) or layers >= len(found):
        count = f"{len(found)} layers" if isinstance(found, nn.ModuleList) else "layers that Proximo does not know"
        raise UserError(f"freeze = {layers}, but the model has {count}: use a smaller number or 0")


def split_decoder(decoder: nn.Module, top_layers: int) -> tuple[nn.Module, nn.Module]:
    """A decoder as (trunk, top): the top is a copy of the upper layers and the final norm, the trunk shares weights.

    Raises:
        UserError: the decoder has no such layers, or its two parts do not give what the whole gives.
    """
    layers, norm = getattr(decoder, "layers", None), getattr(decoder, "norm", None)
    name = type(decoder).__name__
    if not isinstance(layers, nn.ModuleList) or not isinstance(norm, nn.Module):
        raise UserError(f"sharing top_layers does not know the layers of {name}: set sharing.mode to lora or full")
    if not 0 < top_layers < len(layers):
        raise UserError(
            f"top_layers = {top_layers} must be between 1 and {len(layers) - 1}, as {name} has {len(layers)}"
        )
    cut = len(layers) - top_layers
    trunk = _part(decoder, slice(0, cut), list(layers[:cut]))
    trunk.norm = nn.Identity()
    top = _part(decoder, slice(cut, len(layers)), list(copy.deepcopy(layers[cut:])))
    top.norm = copy.deepcopy(norm)
    top._modules.pop("embed_tokens", None)
    # The cache of a part counts its own layers.
    for index, layer in enumerate(top.layers):
        for module in layer.modules():
            if hasattr(module, "layer_idx"):
                module.layer_idx = index
    _check_parts(decoder, trunk, top)
    return trunk, top


def upper_part(decoder: nn.Module, top_layers: int) -> nn.Module:
    """A decoder's own upper layers and final norm as a part, for reading only: its layers count from the whole's first,
    so it can not be given a cache.

    Args:
        decoder: one that `split_decoder` has cut.
        top_layers: how many.
    """
    layers: Any = decoder.layers
    span = slice(len(layers) - top_layers, len(layers))
    part = _part(decoder, span, list(layers[span]))
    part._modules.pop("embed_tokens", None)
    return part


def _part(decoder: nn.Module, span: slice, layers: list[nn.Module]) -> Any:
    """A decoder of the same class with these layers, which stand (or of which copies stand) at `span` in it."""
    part: Any = copy.copy(decoder)
    part._modules = dict(decoder._modules)
    part.config = copy.deepcopy(decoder.config)
    part.layers = nn.ModuleList(layers)
    part.config.num_hidden_layers = len(part.layers)
    if getattr(part.config, "layer_types", None):
        part.config.layer_types = list(part.config.layer_types)[span]
    return part


@torch.no_grad()
def _check_parts(decoder: nn.Module, trunk: nn.Module, top: nn.Module) -> None:
    """Some decoders do more than run layers (add positions, scale embeddings): they can not be cut like this."""
    device = next(decoder.parameters()).device
    tokens = torch.arange(8, device=device).unsqueeze(0)
    whole, _ = Stack([decoder])(tokens)
    parts, _ = Stack([trunk, top])(tokens)
    if not torch.allclose(whole, parts, rtol=1e-4, atol=1e-5):
        raise UserError(
            f"{type(decoder).__name__} does more between its layers than pass hidden states on, so sharing top_layers "
            "would change the model: set sharing.mode to lora or full"
        )
