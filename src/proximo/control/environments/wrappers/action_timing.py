"""Actions as a robot takes them: late by some steps, or held for several."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, SupportsFloat

import gymnasium
import numpy as np

from proximo.control.environments.backends.answers import RAW_REWARD
from proximo.control.environments.base import AroundEnvironments, Step, VectorEnvironment
from proximo.control.environments.terms import terms_in
from proximo.control.spaces.actions import ActionSpec
from proximo.control.spaces.leaves import leaves
from proximo.control.spaces.trees import replace_rows
from proximo.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from proximo.control.environments.base import Observation


class HeldActions(gymnasium.Wrapper):
    """Takes each action several times; the rewards add up, and an episode that ends within ends the step.

    A time limit inside counts the environment's own steps. `info` is that of the last of them, but parts of the reward
    (`reward_*`) and what was paid before it was clipped add up as it does.

    Args:
        env: One environment.
        repeat: How often.
    """

    def __init__(self, env: gymnasium.Env, repeat: int) -> None:
        super().__init__(env)
        self._repeat = repeat

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        """See the class."""
        total, parts = 0.0, dict[str, float]()
        for _ in range(self._repeat):
            observation, reward, terminated, truncated, info = self.env.step(action)
            total += float(reward)
            for name, x in _paid(info):
                parts[name] = parts.get(name, 0.0) + float(x)
            if terminated or truncated:
                break
        return observation, total, terminated, truncated, {**info, **parts} if parts else info


def _paid(info: Any) -> Iterator[tuple[str, Any]]:
    """All that an info has of its step's reward."""
    yield from terms_in(info)
    if isinstance(info, Mapping) and RAW_REWARD in info:
        yield RAW_REWARD, info[RAW_REWARD]


class LateActions(AroundEnvironments):
    """Takes in each step the action that was given some steps before; an episode starts with the middle of the bounds.

    The middle is 0 where there are no bounds. The environments next to each other keep apart what is on its way.

    Args:
        environments: Whose actions are numbers.
        delay: By how many steps, at least 1.

    Raises:
        UserError: An action has choices, which have no middle, or the steps never leave a device.
    """

    def __init__(self, environments: VectorEnvironment, delay: int) -> None:
        super().__init__(environments)
        if any(not isinstance(space, gymnasium.spaces.Box) for _, space in leaves(self.action_space)):
            raise UserError(
                f"action_delay = {delay} needs actions that are numbers, since an episode starts with their middle, "
                f"and those of {self.name} are {self.action_space}: leave it at 0"
            )
        if environments.tensors is not None:
            raise UserError(
                f"action_delay = {delay} is not for environments of tensors, as {self.name}: delay the actions in the "
                "simulator, and leave it at 0"
            )
        spec = ActionSpec.of(self.action_space)
        self._delay = delay
        self._middle = spec.to_environment(np.zeros((self.count, spec.width)))
        self._coming: list[Any] = []

    def reset(self, seeds: Sequence[int]) -> tuple[Observation, np.ndarray | None]:
        """See `VectorEnvironment.reset`."""
        self._coming = [self._middle] * self._delay
        return super().reset(seeds)

    def send(self, actions: Any) -> None:
        """See `VectorEnvironment.send`."""
        self._coming.append(actions)
        super().send(self._coming.pop(0))

    def receive(self) -> Step:
        """See `VectorEnvironment.receive`."""
        step = super().receive()
        if step.started.any():
            self._coming = [replace_rows(late, step.started, self._middle) for late in self._coming]
        return step
