"""Tasks whose left is their right, and the same said in tables and functions."""

import gymnasium
import numpy as np
import torch
from gymnasium import spaces

TABLES = {"observations": {"vector": "-0 2 1"}, "actions": "-0 2 1"}
SIGNS, PLACES = torch.tensor([-1.0, 1.0, 1.0]), [0, 2, 1]


def mirror(observations, actions):
    """`TABLES` as a function."""
    if observations is None:
        return None, actions[..., PLACES] * SIGNS.to(actions.dtype)
    return {name: x[..., PLACES] * SIGNS.to(x.dtype) for name, x in observations.items()}, None


def rotate(observations, actions):
    """No reflection: its square is no identity."""
    return (
        (None, actions) if observations is None else ({name: x.roll(1, -1) for name, x in observations.items()}, None)
    )


class TwoSided(gymnasium.Env):
    """See a side x in [-1, 1], mostly right of 0, and two numbers; the best actions are odd in x and alike in both.

    An episode is `length` steps, the last of which pays nothing else than the others.
    """

    observation_space = spaces.Box(-1, 1, (3,), np.float32)
    action_space = spaces.Box(-1, 1, (3,), np.float32)

    def __init__(self, right=0.95, length=1):
        self.right, self.length = right, length

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.now = 0
        return self.draw(), {}

    def draw(self):
        side = 1 if self.np_random.random() < self.right else -1
        a, b = self.np_random.uniform(-1, 1, 2)
        self.seen = np.array([side * self.np_random.uniform(0.2, 1), a, b], np.float32)
        return self.seen

    def step(self, action):
        x, a, b = self.seen
        best = np.array([0.8 * np.sin(3 * x), 0.6 * a - 0.3 * b * abs(x), 0.6 * b - 0.3 * a * abs(x)])
        self.now += 1
        reward = -float(np.square(np.clip(action, -1, 1) - best).sum())
        return self.draw(), reward, False, self.now >= self.length, {}


def long():
    """Episodes that rollouts cut, for policies with memory."""
    return TwoSided(length=11)
