"""Whether a model's logits are what its linear head says of the decoder's last hidden states, and nothing more.

Fine-tuning, sampling and PPO ask decoder and head themselves, a chunk of the logits at a time. A model that caps its
logits (Gemma 2) or scales them (Cohere, Granite) would be trained and sampled as another model than it is.
"""

from typing import Any

import torch
from torch import Tensor, nn

from proximo.errors import UserError
from proximo.language.models.decoder import Stack

_FAR = 100.0  # logits that a cap would be seen at: Gemma 2 has 30; weights that are still small stay far below
_TOLERANCE = 1e-3


@torch.no_grad()
def linear_head(model: Any) -> nn.Linear:
    """The head of a causal language model, if decoder and head alone give its logits. Draws no random numbers.

    Args:
        model: of `transformers`, in evaluation mode; a handful of tokens goes through it. One whose weights are still
            on `meta` is to be asked again once it has them.

    Raises:
        UserError: it has no linear head, or does more than apply it.
    """
    head = model.get_output_embeddings()
    name = type(model).__name__
    if not isinstance(head, nn.Linear):
        raise UserError(f"{name} has no linear language-model head: use a causal language model")
    if head.weight.is_meta:
        return head
    tokens = torch.arange(6, device=head.weight.device).unsqueeze(0)
    try:
        hidden, _ = Stack([model.get_decoder()])(tokens)
    except (AttributeError, TypeError) as error:
        raise UserError(f"{name} has no decoder apart from its head: use another causal language model") from error
    read: list[Tensor] = []
    said = torch.linspace(-_FAR, _FAR, head.out_features).to(head.weight).expand(1, 6, -1)

    def answer(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        read.append(inputs[0])
        return said

    handle = head.register_forward_hook(answer)
    try:
        logits = model(input_ids=tokens, use_cache=False).logits
    finally:
        handle.remove()
    if not (len(read) == 1 and _same(read[0], hidden) and _same(logits, said)):
        raise UserError(
            f"{name} does more to its logits than a linear head (a cap or a scale), which is not supported: "
            "use another model"
        )
    # Subclassed, hooked or with a forward of its own, it may do anything: where head and decoder are asked apart, the
    # weight is all that is read of it.
    if not _same(head(hidden), nn.functional.linear(hidden, head.weight, head.bias)):
        raise UserError(
            f"the head of {name} does more than multiply by its weight (a subclass, a hook or a forward of its own), "
            "which is not supported: put what it does into the weight, or use another model"
        )
    return head


def _same(a: Tensor, b: Tensor) -> bool:
    """Up to rounding; a model whose weights are not finite has other troubles than its head."""
    a, b = a.float(), b.float()
    return a.shape == b.shape and torch.allclose(a, b, rtol=_TOLERANCE, atol=_TOLERANCE, equal_nan=True)
