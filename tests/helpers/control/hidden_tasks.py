"""Tasks in two parts, so that one of them can be hidden: CartPole, and one with continuous actions."""

import gymnasium
import numpy as np
from gymnasium import spaces
from mirrored_tasks import TwoSided

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


class SideAndRest(gymnasium.ObservationWrapper):
    """`TwoSided` in two parts: `side`, and the two numbers of `rest`."""

    def __init__(self, env):
        super().__init__(env)
        parts = {"side": 1, "rest": 2}
        self.observation_space = spaces.Dict(
            {name: spaces.Box(-1, 1, (size,), np.float32) for name, size in parts.items()}
        )

    def observation(self, observation):
        return {"side": observation[:1], "rest": observation[1:]}


def two_sided():
    return SideAndRest(TwoSided(length=20))
