"""The last k observations as one, for tasks whose single frames do not show velocities."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from proximo.control.environments.base import AroundEnvironments, Observation, Step, VectorEnvironment
from proximo.control.spaces.trees import replace_rows
from proximo.errors import UserError


class FrameStack(AroundEnvironments):
    """Joins the last k observations, oldest first; an episode starts with k copies of its first one.

    Vectors [D] become [k·D]. Images are joined along their channels, wherever those are: [C, H, W] becomes
    [k·C, H, W], [H, W, C] becomes [H, W, k·C], and [H, W] becomes [k, H, W]. An image is taken for [C, H, W] when its
    first axis is its shortest.

    Raises:
        UserError: When the observation is not one Box of one, two or three axes.
    """

    def __init__(self, environments: VectorEnvironment, k: int) -> None:
        from gymnasium import spaces

        from proximo.control.spaces.images import StackedFrames, stack_axis

        space = environments.observation_space
        if not isinstance(space, spaces.Box) or len(space.shape) not in (1, 2, 3):
            raise UserError(
                f"frames of {environments.name} cannot be stacked, because its observation is {space}: "
                "leave frame_stack at 1, or make one Box of it with gymnasium.wrappers.FlattenObservation"
            )
        super().__init__(environments)
        self._k = k
        self._is_plane = len(space.shape) == 2
        self._axis = stack_axis(space.shape)
        self._width = 1 if self._is_plane else space.shape[self._axis]
        self.observation_space = StackedFrames(space, k)
        self._stack = np.zeros((self.count, *self.observation_space.shape), dtype=space.dtype)

    def reset(self, seeds: Sequence[int]) -> tuple[Observation, np.ndarray | None]:
        """See `VectorEnvironment.reset`."""
        observation, mask = self._environments.reset(seeds)
        self._stack = self._repeated(self._frames(observation))
        return self._stack, mask

    def receive(self) -> Step:
        """See `VectorEnvironment.receive`."""
        step = self._environments.receive()
        reached = self._pushed(self._frames(step.final_observation))
        if step.started.any():
            self._stack = replace_rows(reached, step.started, self._repeated(self._frames(step.observation)))
        else:
            self._stack = reached
        final = self._stack if step.final_observation is step.observation else reached
        return dataclasses.replace(step, observation=self._stack, final_observation=final)

    def _frames(self, observation: Any) -> np.ndarray:
        return observation[:, None] if self._is_plane else observation

    def _repeated(self, frames: np.ndarray) -> np.ndarray:
        return np.concatenate([frames] * self._k, axis=self._axis)

    def _pushed(self, frames: np.ndarray) -> np.ndarray:
        kept = [slice(None)] * self._stack.ndim
        kept[self._axis] = slice(self._width, None)
        return np.concatenate([self._stack[tuple(kept)], frames], axis=self._axis)
