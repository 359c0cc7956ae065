"""A simulator of your own that steps many robots at once, as a Gymnasium `VectorEnv` of NumPy arrays."""

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode

import proximo


class Carts(gym.vector.VectorEnv[Any, Any, Any]):
    """Carts that are pushed to the middle of a line; an episode has 100 steps."""

    def __init__(self, num_envs: int = 64) -> None:
        self.num_envs, self.metadata = num_envs, {"autoreset_mode": AutoresetMode.SAME_STEP}
        self.single_observation_space = gym.spaces.Box(-np.inf, np.inf, (2,))
        self.single_action_space = gym.spaces.Box(-1, 1, (1,))

    def reset(self, *, seed: Any = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        self.noise, self.t = np.random.default_rng(seed), 0
        self.state = self.noise.uniform(-1, 1, (self.num_envs, 2))
        return self.state.astype(np.float32), {}

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        speed = np.clip(self.state[:, 1] + 0.1 * actions[:, 0], -2, 2)
        self.state, self.t = np.stack([self.state[:, 0] + 0.1 * speed, speed], 1), self.t + 1
        reward, cut = -np.square(self.state).sum(1), np.full(self.num_envs, self.t == 100)
        infos = {"final_obs": self.state.astype(np.float32), "_final_obs": cut} if cut.all() else {}
        if cut.all():  # the state that was reached is in `final_obs`; what follows is the next episode's first
            self.state, self.t = self.noise.uniform(-1, 1, (self.num_envs, 2)), 0
        return self.state.astype(np.float32), reward, np.zeros_like(cut), cut, infos


def main(steps: int = 300_000, run: str = "runs/own-simulator") -> proximo.Run:
    return proximo.train(Carts(), steps=steps, seed=0, run=run, rollout_length=50)


if __name__ == "__main__":
    print(main().results)
