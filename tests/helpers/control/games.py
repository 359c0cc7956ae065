"""Environments with action masks."""

import gymnasium
import numpy as np
from gymnasium import spaces


class Masking(gymnasium.Env):
    """Reports a mask of some size in the infos of `where`."""

    observation_space, action_space = spaces.Box(-1, 1, (1,), np.float32), spaces.Discrete(3)

    def __init__(self, size=3, where=("reset", "step")):
        self.size, self.where = size, where

    def info(self, here):
        return {"action_mask": np.ones(self.size, np.int8)} if here in self.where else {}

    def reset(self, *, seed=None, options=None):
        return np.zeros(1, np.float32), self.info("reset")

    def step(self, action):
        return np.zeros(1, np.float32), 0.0, False, False, self.info("step")


class Game(Masking):
    """Three moves, and none is left when it is over."""

    def reset(self, *, seed=None, options=None):
        self.now = 0
        return super().reset(seed=seed, options=options)

    def step(self, action):
        self.now += 1
        return np.zeros(1, np.float32), 1.0, self.now == 3, False, {"action_mask": np.arange(3) >= self.now}
