"""What goes into an exported policy and what comes out of it, by name and in order."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import gymnasium
import numpy as np

from proximo.control.models.policy import ControlPolicy
from proximo.control.spaces import actions, observations
from proximo.control.spaces.leaves import Path, leaves
from proximo.errors import UserError

Meaning = Literal["numbers", "choices", "image", "mask", "switches", "logits", "state"]


@dataclass(frozen=True)
class Port:
    """One array that goes in or comes out; a batch of them has a leading axis."""

    name: str
    meaning: Meaning
    path: Path
    shape: tuple[int, ...]
    """Of one observation or action."""
    dtype: str
    low: tuple[float, ...] | None = None
    """Smallest value of each number, infinite where there is none; None where nothing is known."""
    high: tuple[float, ...] | None = None
    choices: tuple[int, ...] = ()
    """How many there are in each column; they are counted from `start`."""
    start: tuple[int, ...] = ()
    layout: str = ""
    """image: how its axes are ordered."""

    @property
    def size(self) -> int:
        """Numbers in it."""
        return int(np.prod(self.shape, dtype=int))


@dataclass(frozen=True)
class Interface:
    """Everything that an exported policy is given and gives, as the environment has it."""

    observations: tuple[Port, ...]
    actions: tuple[Port, ...]
    mask: Port | None
    """The mask that is given beside the observation; None where the policy was trained without."""
    state: Port | None
    """The memory of a recurrent policy, zeros when an episode starts."""

    @property
    def inputs(self) -> tuple[Port, ...]:
        """What it is given, in order."""
        return (*self.observations, *(port for port in (self.mask, self.state) if port))

    @property
    def logits(self) -> Port | None:
        """Those of all choices and switches, one after another; None where every action is a number."""
        counts = [
            sum(port.choices) if port.choices else port.size for port in self.actions if port.meaning != "numbers"
        ]
        return Port("logits", "logits", (), (sum(counts),), "float32") if counts else None

    @property
    def output_names(self) -> list[str]:
        """What it gives, in order."""
        more = (["logits"] if self.logits else []) + (["next_state"] if self.state else [])
        return [*(port.name for port in self.actions), *more]

    @property
    def exact(self) -> bool:
        """Whether some of the observation keeps the digits of float64 until the normaliser."""
        return any(port.dtype == "float64" for port in self.observations)

    def feed(self, observation: Any, mask: np.ndarray | None) -> dict[str, np.ndarray]:
        """A batch of observations as the environment gives them, and its masks `[N, K]`, by name of the input."""
        given = {port.name: np.asarray(at(observation, port.path)).astype(port.dtype) for port in self.observations}
        if self.mask is None:
            return given
        count = len(next(iter(given.values())))
        return {**given, "mask": np.ones((count, self.mask.size), bool) if mask is None else mask.astype(bool)}

    @classmethod
    def of(cls, policy: ControlPolicy, space: gymnasium.Space, *, bounded: bool) -> "Interface":
        """The interface of a policy.

        Args:
            policy: that is exported.
            space: of its observations, as the environment has it.
            bounded: whether the bounds of `space` can be believed.

        Raises:
            UserError: two parts have one name.
        """
        spaces = dict(leaves(space))
        seen = tuple(
            _observed(part, spaces[part.path], policy.exact_observations, bounded) for part in policy.observations.parts
        )
        beside = policy.masked and not policy.observations.has_mask
        given = Port("mask", "mask", (), (policy.actions.mask_size,), "bool") if beside else None
        size = policy.memory_size
        interface = cls(
            seen,
            tuple(_decided(part) for part in policy.actions.parts),
            given,
            Port("state", "state", (), (size,), "float32") if size else None,
        )
        names = [port.name for port in (*interface.observations, *interface.actions)]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise UserError(f"two parts of the environment's spaces are called {twice}: rename one of their keys")
        return interface


def at(tree: Any, path: Path) -> Any:
    """The leaf at a path."""
    for key in path:
        tree = tree[key]
    return tree


def name_of(root: str, path: Path) -> str:
    """`observation.camera.depth`; the root alone where a space is not nested."""
    return ".".join((root, *map(str, path)))


def _observed(part: observations.Part, space: gymnasium.Space, exact: bool, bounded: bool) -> Port:
    name = name_of("observation", part.path)
    if part.kind == "mask":
        return Port(name, "mask", part.path, part.shape, "bool", choices=part.choices)
    if part.kind == "one_hot":
        return Port(name, "choices", part.path, part.shape, "int64", choices=part.choices, start=part.start)
    if part.kind == "pixels":
        return Port(name, "image", part.path, part.env_shape, "uint8", layout=part.layout)
    dtype = np.dtype(space.dtype or np.float32)
    # As the policy reads it: digits that float32 has no room for are kept only where they matter.
    wide = exact and dtype.itemsize >= 4 and dtype != np.float32
    low = high = None
    if bounded and isinstance(space, gymnasium.spaces.Box):
        low, high = (tuple(bound.reshape(-1).astype(float).tolist()) for bound in (space.low, space.high))
    return Port(name, "numbers", part.path, part.shape, "float64" if wide else "float32", low, high)


def _decided(part: actions.Part) -> Port:
    name = name_of("action", part.path)
    if part.kind == "choice":
        return Port(name, "choices", part.path, part.shape, part.dtype, choices=part.choices, start=part.start)
    if part.kind == "binary":
        return Port(name, "switches", part.path, part.shape, part.dtype)
    low, high = (tuple(bound.astype(float).tolist()) for bound in part.bounds)
    return Port(name, "numbers", part.path, part.shape, part.dtype, low, high)


def stack(ports: tuple[Port, ...], arrays: Mapping[str, np.ndarray]) -> np.ndarray:
    """Arrays `[N, ...]` of some ports side by side, float64 `[N, width]`."""
    columns = [np.asarray(arrays[port.name]).reshape(-1, port.size).astype(np.float64) for port in ports]
    return np.concatenate(columns, 1)
