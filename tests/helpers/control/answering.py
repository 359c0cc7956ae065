"""An environment that answers as it is told to."""

import gymnasium
import numpy as np
from gymnasium import spaces


class Answering(gymnasium.Env):
    """Answers with what it was given; each reset's and step's info comes from a function of the step."""

    def __init__(self, reward=1.0, info=None, action=None, **ends):
        self.observation_space, self.action_space = spaces.Box(-9, 9, (2,), np.float32), action or spaces.Discrete(2)
        self.reward, self.info = reward, info or (lambda now: {})
        self.ends = {"terminated": False, "truncated": False, **ends}

    def reset(self, *, seed=None, options=None):
        self.now = 0
        return np.zeros(2, np.float32), self.info(0)

    def step(self, action):
        self.now += 1
        return np.zeros(2, np.float32), self.reward, *self.ends.values(), self.info(self.now)
