"""Code of the user's own in a model of `transformers`, which a folder of it does not hold. Private names of torch."""

from collections.abc import Iterator
from functools import partial
from typing import Any

from torch import nn

from proximo.runs.storage.module_sources import is_own


def own_parts(model: nn.Module) -> Iterator[str]:
    """What of a model computes by code of the user's own: modules, replaced `forward`s and hooks, each in a few words.

    The class of the whole model is not asked.
    """
    for name, part in model.named_modules():
        place = name or type(model).__name__
        if name and is_own(type(part).__module__):
            yield f"{place} is a {type(part).__name__}"
        if "forward" in vars(part) and _is_own_function(vars(part)["forward"]):
            yield f"the forward of {place} was replaced"
        hooks = [*part._forward_hooks.values(), *part._forward_pre_hooks.values()]
        if any(_is_own_function(hook) for hook in hooks):
            yield f"{place} has a hook"


def _is_own_function(function: Any) -> bool:
    while isinstance(function, partial):
        function = function.func
    module = getattr(function, "__module__", None)
    return isinstance(module, str) and is_own(module)
