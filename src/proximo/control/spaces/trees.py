"""Observations and actions are arrays, or dicts and tuples of them: the few things done to all their leaves."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np


def map_leaves(function: Callable[..., Any], tree: Any, *others: Any) -> Any:
    """`function` applied leaf by leaf to trees of one structure; keys and lengths are those of the first."""
    if isinstance(tree, dict):
        return {key: map_leaves(function, tree[key], *(other[key] for other in others)) for key in tree}
    if isinstance(tree, tuple):
        return tuple(map_leaves(function, *parts) for parts in zip(tree, *others, strict=True))
    return function(tree, *others)


def named_leaves(tree: Any, name: str = "") -> Iterator[tuple[str, np.ndarray]]:
    """The leaves with their names: `velocity`, `camera.depth`, `0`; the name of a lone array is empty."""
    if isinstance(tree, np.ndarray):
        yield name, tree
        return
    parts = tree.items() if isinstance(tree, dict) else enumerate(tree)
    for key, part in parts:
        yield from named_leaves(part, f"{name}.{key}" if name else str(key))


def take_row(tree: Any, index: int) -> Any:
    """Row `index` of every leaf."""
    return map_leaves(lambda leaf: leaf[index], tree)


def replace_rows(tree: Any, rows: np.ndarray, replacement: Any) -> Any:
    """A copy of `tree` whose rows where `rows` (bool [N]) come from `replacement`, a batch of the same structure."""

    def replace(leaf: np.ndarray, new: np.ndarray) -> np.ndarray:
        copy = np.array(leaf)
        copy[rows] = new[rows]
        return copy

    return map_leaves(replace, tree, replacement)


def is_tensor(x: Any) -> bool:
    """Whether something is a tensor of torch, without importing it."""
    return hasattr(x, "detach") and hasattr(x, "cpu")
