"""Environments in the shape of PufferLib 3: agents are rows of buffers that each step overwrites."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from proximo.control.environments.backends.tensors import owned, truths
from proximo.control.environments.base import Observation, Step, VectorEnvironment, hidden_end
from proximo.control.environments.visible_leaves import ALL_KEYS, ObservationKeys

_METHODS = ("num_agents", "single_observation_space", "single_action_space", "terminals", "step", "reset")


def is_puffer(env: Any) -> bool:
    """Whether an object has the methods of a `PufferEnv` (pufferlib/pufferlib.py)."""
    return not isinstance(env, type) and all(hasattr(env, name) for name in _METHODS)


class PufferEnvironments(VectorEnvironment):
    """A `PufferEnv`, which resets itself in the same step and never shows the state that a cut episode reached.

    Args:
        env: it; its agents are the rows.
        name: what the user calls it.
        keys: what of its observations is kept.
    """

    backend = "pufferlib"

    def __init__(self, env: Any, name: str, keys: ObservationKeys = ALL_KEYS) -> None:
        self._env, self.name, self.count = env, name, int(env.num_agents)
        self.together = self.count  # nobody says which of them share a game
        self._kept = keys.kept(env.single_observation_space, name)
        self.observation_space, self.action_space = self._kept.space, env.single_action_space
        self.notes, self._finals_wanted = self._kept.notes, True
        self._alive = np.ones(self.count, bool)

    def reset(self, seeds: Sequence[int]) -> tuple[Observation, np.ndarray | None]:
        """See `VectorEnvironment.reset`."""
        observation, _ = self._env.reset(int(seeds[0]) % 2**31)
        self._alive = self._active()
        return self._kept.take(owned(observation)), None

    def step(self, actions: Any) -> Step:
        """See `VectorEnvironment.step`."""
        observation, reward, terminals, truncations, _ = self._env.step(np.asarray(actions))
        # Rows are of agents that acted: one that is not there has nothing to learn from.
        valid, self._alive = self._alive, self._active()
        over, cut = truths(terminals), truths(truncations)
        if (cut & ~over & valid).any() and self._finals_wanted:
            raise hidden_end(self.name, "resets by itself, as PufferLib's environments do")
        paid = np.where(valid, owned(reward).reshape(-1).astype(np.float64), 0.0)
        seen = self._kept.take(owned(observation))
        ended = over | cut
        return Step(seen, seen, paid, over, cut, valid, ended, paid, paid, ended & valid, None)

    def _active(self) -> np.ndarray:
        masks = getattr(self._env, "masks", None)
        return np.ones(self.count, bool) if masks is None else truths(masks)

    def leave_out_finals(self) -> None:
        """See `VectorEnvironment.leave_out_finals`."""
        self._finals_wanted = False

    def close(self) -> None:
        """See `VectorEnvironment.close`."""
        self._env.close()
