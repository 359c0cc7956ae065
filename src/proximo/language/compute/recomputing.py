"""Gradient checkpointing that a user has switched on for a model, within a training that keeps models in eval mode."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import nn


@contextmanager
def recomputing(*modules: nn.Module) -> Iterator[None]:
    """Layers of these modules with `gradient_checkpointing` on recompute themselves in the backward pass.

    `transformers` asks for training mode too, in which our models never are: policy, reference and critic must be the
    same function at each look. Only the layers themselves are switched, so nothing else in them notices. Without a
    gradient to come nothing is switched, as a cache can not be filled from a layer that recomputes itself.
    """
    layers = [layer for module in modules for layer in module.modules() if getattr(layer, "gradient_checkpointing", 0)]
    modes = [layer.training for layer in layers]
    try:
        for layer in layers if torch.is_grad_enabled() else ():
            layer.training = True
        yield
    finally:
        for layer, mode in zip(layers, modes, strict=True):
            layer.training = mode


@contextmanager
def again_within(context: Callable[[], AbstractContextManager[Any]], module: nn.Module) -> Iterator[None]:
    """Layers of a module that recompute themselves do it within a context, as they ran within it before.

    The backward pass comes after that context has ended: without this, layers that an adapter was switched on for
    would recompute themselves without it, and the gradient would be another's.
    """
    layers: list[Any] = [layer for layer in module.modules() if getattr(layer, "gradient_checkpointing", False)]
    layers = [layer for layer in layers if hasattr(layer, "_gradient_checkpointing_func")]
    before = [layer._gradient_checkpointing_func for layer in layers]

    def within(checkpoint: Any) -> Any:
        def checkpointed(function: Any, *args: Any, **settings: Any) -> Any:
            def again(*given: Any) -> Any:
                with context():
                    return function(*given)

            return checkpoint(again, *args, **settings)

        return checkpointed

    try:
        for layer, checkpoint in zip(layers, before, strict=True):
            layer._gradient_checkpointing_func = within(checkpoint)
        yield
    finally:
        for layer, checkpoint in zip(layers, before, strict=True):
            layer._gradient_checkpointing_func = checkpoint
