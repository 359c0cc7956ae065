"""CartPole in two parts, positions and velocities, so that one of them can be hidden."""

import gymnasium
import numpy as np
from gymnasium import spaces

SIZES = {"environments": 2, "rollout_length": 16, "update": {"minibatch_size": 32}}


class InParts(gymnasium.ObservationWrapper):
    """`position` of cart and pole, and their `velocity`."""

    def __init__(self, env):
        super().__init__(env)
        part = spaces.Box(-np.inf, np.inf, (2,), np.float32)
        self.observation_space = spaces.Dict({"position": part, "velocity": part})

    def observation(self, observation):
        return {"position": observation[[0, 2]], "velocity": observation[[1, 3]]}


def cart():
    return InParts(gymnasium.make("CartPole-v1"))
