"""What a judge can be made from: a model whose tokens see each other both ways."""

from typing import Any

import torch

from proximo.errors import UserError
from proximo.language.models.context import context_of

_TOKENS = 8


def check_encoder(model: Any, tokenizer: Any, name: str) -> None:
    """Refuse a model that is no encoder. Whether it is one is tried out: no setting says so for every architecture.

    Args:
        model: `transformers` model without head.
        tokenizer: its tokenizer.
        name: of the model.

    Raises:
        UserError: the model reads in one direction only, is half of a translator, or reads no text.
    """
    if getattr(model.config, "is_encoder_decoder", False) or not _sees_what_follows(model, tokenizer):
        raise UserError(f"{name} is no encoder: give the judge one, as builtin:minilm")


@torch.no_grad()
def _sees_what_follows(model: Any, tokenizer: Any) -> bool:
    """Whether the first token's state is another where the last token is."""
    special = set(tokenizer.all_special_ids)
    try:
        ordinary = [i for i in range(model.get_input_embeddings().num_embeddings) if i not in special]
        middle = len(ordinary) // 2  # the first ones of many vocabularies are unused
        one, other = ordinary[middle - 1 : middle + 1]
        rows = torch.tensor([[one] * _TOKENS, [one] * (_TOKENS - 1) + [other]], device=model.device)
        states = model(input_ids=rows, attention_mask=torch.ones_like(rows)).last_hidden_state
    except Exception:  # a model of images, of speech, of another kind: each stumbles over something else
        return False
    return not torch.allclose(states[0, 0], states[1, 0])


def context_of_encoder(model: Any) -> int | None:
    """Tokens that it reads at a time; None where it names no limit."""
    limit = context_of(model)
    positions = getattr(getattr(model, "embeddings", None), "position_embeddings", None)
    padding = getattr(positions, "padding_idx", None)
    # RoBERTa's kind counts positions from the padding's on: its first token stands at padding_idx + 1.
    return limit if limit is None or padding is None else limit - padding - 1
