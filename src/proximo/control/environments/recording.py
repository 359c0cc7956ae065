"""The task's own rewards, below whatever wrappers make of them."""

from __future__ import annotations

import math
from typing import Any

import gymnasium
from gymnasium.wrappers import OrderEnforcing, PassiveEnvChecker, TimeLimit

_PASS_ON = (OrderEnforcing, PassiveEnvChecker, TimeLimit)
"""What `gymnasium.make` puts around every task: none of them touches a reward."""


class RewardRecorder(gymnasium.Wrapper):
    """Sits directly around the task and adds up what it pays, also over several of its steps (frame skip)."""

    def __init__(self, env: gymnasium.Env) -> None:
        super().__init__(env)
        self._total: float | None = None

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """See `gymnasium.Env.step`."""
        result = self.env.step(action)
        try:
            self._total = (self._total or 0.0) + float(result[1])
        except (TypeError, ValueError):  # no number yet: a wrapper above makes one of it
            self._total = math.nan
        return result

    def take(self, given: float) -> float:
        """What was paid since the last call; `given` where nothing passed here, or no finite number did."""
        total, self._total = self._total, None
        return given if total is None or not math.isfinite(total) else total


def record_rewards(env: gymnasium.Env) -> RewardRecorder | None:
    """Puts a recorder below all wrappers of `env`; None where none of them could change a reward."""
    outer = env
    touched = False
    while isinstance(outer, gymnasium.Wrapper):
        touched = touched or type(outer) not in _PASS_ON
        if not isinstance(outer.env, gymnasium.Wrapper):
            break
        outer = outer.env
    if not touched or not isinstance(outer, gymnasium.Wrapper):
        return None
    recorder = RewardRecorder(outer.env)
    outer.env = recorder
    return recorder
