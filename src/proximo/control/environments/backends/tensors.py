"""Arrays of other libraries: read as NumPy's own, and given back as what they were."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from proximo.control.environments.base import TensorStep, hidden_end
from proximo.control.environments.terms import from_infos
from proximo.control.spaces.trees import is_tensor
from proximo.errors import UserError

ALONE = ""
"""Group of an observation that is no Dict."""
HIDES = "resets in the same step without infos['final_obs']"
SHOW = "return the final observations there, use next-step autoreset"
"""Of Gymnasium's vector environments."""


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


class VectorTensors:
    """A Gymnasium `VectorEnv` whose arrays are tensors, stepped where they are (ManiSkill 3).

    Args:
        vector: resets in the same step, and has a `device`.
        name: what the user calls it.
    """

    def __init__(self, vector: Any, name: str) -> None:
        self._vector, self._name, self.device = vector, name, str(vector.device)

    @classmethod
    def of(cls, vector: Any, name: str) -> VectorTensors | None:
        """None where the environment says no device of torch, which those of NumPy do not have."""
        import torch

        return cls(vector, name) if isinstance(getattr(vector, "device", None), torch.device) else None

    @property
    def hidden_end(self) -> UserError:
        """See `TensorSource.hidden_end`."""
        return hidden_end(self._name, HIDES, SHOW)

    def step_tensors(self, actions: Any) -> TensorStep:
        """See `TensorSource.step_tensors`; what ends for good and is cut at once has ended for good."""
        seen, reward, terminated, truncated, infos = self._vector.step(actions.to(self._vector.device))
        ends, cuts = terminated.reshape(-1) != 0, truncated.reshape(-1) != 0
        finals = infos.get("final_obs", infos.get("final_observation"))
        said = from_infos(infos, len(ends))
        reached = None if finals is None else _groups(finals)
        return TensorStep(_groups(seen), reached, reward.reshape(-1), ends | cuts, cuts & ~ends, said)


def _groups(seen: Any) -> Any:
    return seen if hasattr(seen, "keys") else {ALONE: seen}
