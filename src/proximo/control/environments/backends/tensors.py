"""Arrays of other libraries: read as NumPy's own, and given back as what they were."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np


def is_tensor(x: Any) -> bool:
    """Whether something is a tensor of torch, without importing it."""
    return hasattr(x, "detach") and hasattr(x, "cpu")


def owned(tree: Any) -> Any:
    """Arrays of one's own of a tree of tensors: environments overwrite theirs in the next step.

    Args:
        tree: tensors, mappings of them (rsl_rl's TensorDict is none of Python's) or tuples.
    """
    if is_tensor(tree) and hasattr(tree, "shape") and not hasattr(tree, "batch_size"):
        return np.array(tree.detach().cpu().numpy())
    if isinstance(tree, Mapping) or hasattr(tree, "keys"):
        return {str(key): owned(tree[key]) for key in tree.keys()}  # noqa: SIM118
    if isinstance(tree, tuple):
        return tuple(map(owned, tree))
    return np.array(tree)


def first_leaf(tree: Any) -> Any:
    """The first array of a tree."""
    while isinstance(tree, Mapping | tuple):
        tree = next(iter(tree.values() if isinstance(tree, Mapping) else tree))
    return tree


def truths(x: Any) -> np.ndarray:
    """Ends of episodes as bool `[N]`, from bool, int64 (Isaac Lab) or float32 (MuJoCo Playground) of any library."""
    flat: np.ndarray = owned(x).reshape(-1) != 0
    return flat


def like(array: np.ndarray, tensor: Any) -> Any:
    """An array as a tensor on the device of another; float64 becomes float32, which simulators take."""
    import torch

    given = torch.from_numpy(np.array(array, np.float32 if array.dtype == np.float64 else array.dtype))
    return given.to(tensor if isinstance(tensor, str | torch.device) else tensor.device)
