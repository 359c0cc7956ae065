"""The last k observations as one, for tasks whose single frames do not show velocities."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from proximo.control.environments.base import AroundEnvironments, Observation, Step, VectorEnvironment
from proximo.control.spaces.trees import replace_rows
from proximo.errors import UserError

WHOLE = ""
"""The name of an observation that has no parts."""


class FrameStack(AroundEnvironments):
    """Joins the last k observations, or of parts of them, oldest first; an episode starts with k copies of its first.

    Vectors [D] become [k·D]. Images are joined along their channels, wherever those are: [C, H, W] becomes
    [k·C, H, W], [H, W, C] becomes [H, W, k·C], and [H, W] becomes [k, H, W]. An image is taken for [C, H, W] when its
    first axis is its shortest.

    Args:
        environments: Whose observations are joined.
        k: How many; or how many of each part of a Dict, by name.

    Raises:
        UserError: When an observation or part is not one Box of one, two or three axes, or there is no such part.
    """

    def __init__(self, environments: VectorEnvironment, k: int | Mapping[str, int]) -> None:
        from gymnasium import spaces

        super().__init__(environments)
        space, name = environments.observation_space, environments.name
        counts = {WHOLE: k} if isinstance(k, int) else dict(k)
        whole = isinstance(k, int)
        inner = {WHOLE: space} if whole else getattr(space, "spaces", None)
        if not isinstance(inner, Mapping) or (missing := sorted(counts.keys() - inner.keys())):
            parts = f"there are {', '.join(inner)}" if isinstance(inner, Mapping) else f"it is {space}, without names"
            asked = missing[0] if isinstance(inner, Mapping) else next(iter(counts))
            raise UserError(f"history names {asked}, which is no part of the observation of {name}: {parts}")
        self._stacks = {key: _Stack(_stackable(inner[key], key, name), count) for key, count in counts.items()}
        joined = {key: stack.space for key, stack in self._stacks.items()}
        self.observation_space = joined[WHOLE] if whole else spaces.Dict({**inner, **joined})
        self._held: dict[str, np.ndarray] = {}

    def reset(self, seeds: Sequence[int]) -> tuple[Observation, np.ndarray | None]:
        """See `VectorEnvironment.reset`."""
        observation, mask = self._environments.reset(seeds)
        self._held = self._started(observation)
        return _with(observation, self._held), mask

    def receive(self) -> Step:
        """See `VectorEnvironment.receive`."""
        step = self._environments.receive()
        final = step.final_observation
        reached = {key: s.pushed(self._held[key], s.frames(_part(final, key))) for key, s in self._stacks.items()}
        self._held = reached
        if step.started.any():
            started = self._started(step.observation)
            self._held = {key: replace_rows(x, step.started, started[key]) for key, x in reached.items()}
        observation = _with(step.observation, self._held)
        final = observation if final is step.observation else _with(final, reached)
        return dataclasses.replace(step, observation=observation, final_observation=final)

    def _started(self, observation: Any) -> dict[str, np.ndarray]:
        return {key: stack.repeated(stack.frames(_part(observation, key))) for key, stack in self._stacks.items()}


class _Stack:
    """How k frames of one Box are joined."""

    def __init__(self, frame: Any, k: int) -> None:
        from proximo.control.spaces.images import StackedFrames, stack_axis

        self._k, self._is_plane, self._axis = k, len(frame.shape) == 2, stack_axis(frame.shape)
        self._width = 1 if self._is_plane else frame.shape[self._axis]
        self.space = StackedFrames(frame, k)

    def frames(self, observation: np.ndarray) -> np.ndarray:
        """A batch of frames with an axis to be joined along."""
        return observation[:, None] if self._is_plane else observation

    def repeated(self, frames: np.ndarray) -> np.ndarray:
        """The start of an episode."""
        return np.concatenate([frames] * self._k, axis=self._axis)

    def pushed(self, held: np.ndarray, frames: np.ndarray) -> np.ndarray:
        """The frames held, less the oldest, and new ones."""
        kept = [slice(None)] * held.ndim
        kept[self._axis] = slice(self._width, None)
        return np.concatenate([held[tuple(kept)], frames], axis=self._axis)


def _stackable(space: Any, key: str, name: str) -> Any:
    """The space if frames of it can be joined.

    Raises:
        UserError: it can not.
    """
    from gymnasium import spaces

    if isinstance(space, spaces.Box) and len(space.shape) in (1, 2, 3):
        return space
    if key != WHOLE:
        raise UserError(f"history of {key} cannot be kept, because in {name} it is {space}: leave it out of history")
    raise UserError(
        f"frames of {name} cannot be stacked, because its observation is {space}: leave frame_stack at 1, name parts "
        "of it in history, or make one Box of it with gymnasium.wrappers.FlattenObservation"
    )


def _part(observation: Any, key: str) -> Any:
    return observation if key == WHOLE else observation[key]


def _with(observation: Any, parts: Mapping[str, np.ndarray]) -> Any:
    """The observation with parts exchanged."""
    if WHOLE in parts:
        return parts[WHOLE]
    return {**observation, **parts}
