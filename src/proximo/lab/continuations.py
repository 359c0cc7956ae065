"""What may follow from given states: a world that starts wherever it is asked to, and paths through it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import gymnasium
import numpy as np
import torch

from proximo.control.models.policy import ControlPolicy

Values = Callable[[np.ndarray], np.ndarray]
"""V(s) of states `[B, ...]`, `[B]`."""


class World(Protocol):
    """A task with a policy that stands still. States are rows, `[B, ...]`."""

    def act(self, states: np.ndarray) -> np.ndarray:
        """Actions sampled from the policy, `[B, ...]`."""

    def step(self, states: np.ndarray, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Next states `[B, ...]`, rewards `[B]`, and whether the episode ended by itself `[B]`."""


class Robot:
    """A MuJoCo task of Gymnasium whose state is positions and velocities, and a policy of ours.

    Args:
        task: whose observation follows from positions and velocities alone.
        policy: what acts.
        seed: of its noise.
    """

    def __init__(self, task: str, policy: ControlPolicy, seed: int) -> None:
        self.environment = gymnasium.make(task).unwrapped
        self.environment.reset(seed=seed)
        self.policy = policy
        self._noise = torch.Generator().manual_seed(seed)
        self._positions: int = self.environment.model.nq  # type: ignore[attr-defined]

    def act(self, states: np.ndarray) -> np.ndarray:
        """Actions as the policy stores them, unclipped."""
        return self.policy.act(self._seen(states), generator=self._noise).action.numpy()

    def step(self, states: np.ndarray, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """One after another, in one simulator."""
        robot, n = self.environment, self._positions
        rewards, ended = np.zeros(len(states)), np.zeros(len(states), bool)
        following = np.empty_like(states)
        for i, (state, command) in enumerate(zip(states, self.policy.actions.to_environment(actions), strict=True)):
            robot.set_state(state[:n], state[n:])  # type: ignore[attr-defined]
            _, reward, ended[i], _, _ = robot.step(command)
            rewards[i] = float(reward)
            following[i] = self.state()
        return following, rewards, ended

    def state(self) -> np.ndarray:
        """Positions and velocities of the simulator as it is."""
        data = self.environment.data  # type: ignore[attr-defined]
        return np.concatenate([data.qpos, data.qvel])

    def starts(self, count: int, seed: int) -> np.ndarray:
        """States that episodes begin with, `[count, ...]`."""
        states = []
        for i in range(count):
            self.environment.reset(seed=seed + i)
            states.append(self.state())
        return np.stack(states)

    def critic(self, policy: ControlPolicy, scale: float) -> Values:
        """A policy's critic in units of reward, where it has learnt from rewards that were divided by `scale`."""
        return lambda states: scale * policy.values.from_units(policy.value(self._seen(states))).double().numpy()

    def _seen(self, states: np.ndarray) -> dict[str, torch.Tensor]:
        return {"vector": torch.from_numpy(states.astype(np.float32))}


@dataclass(frozen=True)
class Paths:
    """P paths of L steps; after its end a path stands still."""

    states: np.ndarray
    """`[L + 1, P, ...]`."""
    rewards: np.ndarray
    """`[L, P]`, 0 after the end."""
    terminated: np.ndarray
    """`[L, P]`, True from the end on."""

    def returns(self, gamma: float) -> np.ndarray:
        """Discounted sums of the rewards, `[P]`."""
        total: np.ndarray = gamma ** np.arange(len(self.rewards)) @ self.rewards
        return total


def follow(world: World, states: np.ndarray, length: int, actions: np.ndarray | None = None) -> Paths:
    """Go on from states, each with noise of its own.

    Args:
        world: where.
        states: `[P, ...]`.
        length: steps, at most.
        actions: `[P, ...]` to begin with; the policy's if None.
    """
    visited = np.empty((length + 1, *states.shape), states.dtype)
    visited[0] = states
    rewards, terminated = np.zeros((length, len(states))), np.zeros((length, len(states)), bool)
    live = np.arange(len(states))
    for t in range(length):
        visited[t + 1], terminated[t] = visited[t], True
        if not len(live):
            continue
        here = visited[t, live]
        chosen = world.act(here) if t or actions is None else actions
        visited[t + 1, live], rewards[t, live], ended = world.step(here, chosen)
        terminated[t, live] = ended
        live = live[~ended]
    return Paths(visited, rewards, terminated)


def passed_through(world: World, starts: np.ndarray, length: int, seed: int) -> np.ndarray:
    """One state of each path from `starts`, any of those before it ends or `length` steps are over."""
    paths = follow(world, starts, length)
    lasts = 1 + (~paths.terminated).sum(0)
    draw = np.random.default_rng(seed)
    return paths.states[draw.integers(lasts.clip(max=length)), np.arange(len(starts))]


def sampled_returns(world: World, states: np.ndarray, count: int, length: int, gamma: float) -> np.ndarray:
    """Returns of `count` continuations of `length` steps from each state, `[B, count]`; their mean is V(s)."""
    return follow(world, states.repeat(count, 0), length).returns(gamma).reshape(len(states), count)
