"""How many tokens a model can read."""

from typing import Any


def context_of(model: Any) -> int | None:
    """The longest row of tokens that a `transformers` model was made for; None where its configuration names none."""
    limit = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    return limit if isinstance(limit, int) and limit > 0 else None
