"""How many tokens a model can read."""

from collections.abc import Iterator, Mapping
from typing import Any


def context_of(model: Any) -> int | None:
    """The longest row of tokens that a `transformers` model was made for; None where its configuration names none.

    Of models whose rotary embedding changes beyond their original context (longrope: Phi-3, Phi-4-mini), that one: what
    they say of a token there depends on the longest row that is read together with it.
    """
    config = model.config.get_text_config()
    limit = getattr(config, "max_position_embeddings", None)
    limits = [x for x in (limit, *_original_contexts(config)) if isinstance(x, int) and x > 0]
    return min(limits, default=None)


def why_not_longer(model: Any) -> str:
    """Why a model is not read up to the length that its configuration names, in a clause; "" where it is."""
    config = model.config.get_text_config()
    longest = getattr(config, "max_position_embeddings", None)
    if context_of(model) == longest or not list(_original_contexts(config)):
        return ""
    return (
        f" (of {longest}: beyond its original context its longrope embedding turns all tokens by other angles, so that "
        "sampling and training would be two models)"
    )


def _original_contexts(config: Any) -> Iterator[Any]:
    """Of each kind of layer with such an embedding."""
    rope = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None)
    if not isinstance(rope, Mapping):
        return
    for each in [rope, *(x for x in rope.values() if isinstance(x, Mapping))]:
        if each.get("rope_type", each.get("type")) in ("longrope", "su", "yarn_longrope"):
            yield each.get(
                "original_max_position_embeddings", getattr(config, "original_max_position_embeddings", None)
            )
