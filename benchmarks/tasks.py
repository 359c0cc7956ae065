"""Tasks that only the benchmarks need."""

import gymnasium
import numpy as np


class _Positions(gymnasium.ObservationWrapper):
    """Cart position and pole angle; the two velocities must be remembered."""

    def __init__(self, environment: gymnasium.Env) -> None:
        super().__init__(environment)
        box = environment.observation_space
        self.observation_space = gymnasium.spaces.Box(box.low[[0, 2]], box.high[[0, 2]], dtype=np.float32)

    def observation(self, observation: np.ndarray) -> np.ndarray:
        """`[4]` -> `[2]`."""
        return observation[[0, 2]]


def cartpole_without_velocity() -> gymnasium.Env:
    """CartPole-v1 whose velocities are masked: a policy without memory can not balance for long."""
    return _Positions(gymnasium.make("CartPole-v1"))
