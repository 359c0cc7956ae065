"""Tasks of all kinds of spaces, whose observations are drawn at random, and short runs on them."""

import gymnasium
import numpy as np
from gymnasium import spaces

import proximo

POSITION = spaces.Box(-np.inf, np.inf, (3,), np.float64)
HYBRID = spaces.Dict(
    {
        "arm": spaces.Box(np.float32([-2, -np.inf]), np.float32([6, 1]), dtype=np.float32),
        "grip": spaces.Discrete(3, start=5),
        "lamps": spaces.MultiBinary(2),
        "gears": spaces.MultiDiscrete([2, 4]),
        "steps": spaces.Box(-9, 9, (1,), np.int32),
    }
)


class Drawn(gymnasium.Env):
    """Episodes of five random observations; with `masked`, random masks in the infos.

    Args:
        observation: their space; numbers are normal around `middle`.
        action: space of the actions.
        middle: where numbers lie.
        masked: whether there are masks.
    """

    def __init__(self, observation, action, middle=0.0, masked=False):
        self.observation_space, self.action_space = observation, action
        self.middle, self.masked = middle, masked

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        if seed is not None:
            self.observation_space.seed(seed)
        self.now = 0
        return self.observe(), self.info()

    def step(self, action):
        assert self.action_space.contains(action)
        self.now += 1
        return self.observe(), float(self.now % 2), self.now == 5, False, self.info()

    def observe(self):
        drawn = self.observation_space.sample()
        if not isinstance(drawn, dict):
            return drawn + self.middle if drawn.dtype == np.float64 else drawn
        return {key: x + self.middle if x.dtype == np.float64 else x for key, x in drawn.items()}

    def info(self):
        if not self.masked:
            return {}
        rows = [self.np_random.random(n) < 0.5 for n in (2, 4, 3)]  # Gymnasium sorts the keys
        for row in rows:
            row[self.np_random.integers(len(row))] = True
        return {"action_mask": np.concatenate(rows).astype(np.int8)}


def robot():
    return Drawn(POSITION, spaces.Box(-2, 6, (2,), np.float32))


def choice():
    return Drawn(POSITION, spaces.Discrete(3, start=5))


def far():
    """A clock's numbers, whose digits float32 has no room for."""
    return Drawn(POSITION, spaces.Box(-1, 1, (2,), np.float64), middle=1e9)


def hybrid():
    seen = {"position": POSITION, "state": spaces.Box(-1, 1, (2, 2), np.float32), "gear": spaces.Discrete(4, start=1)}
    return Drawn(spaces.Dict(seen), HYBRID, masked=True)


def camera():
    picture = spaces.Box(0, 255, (12, 14, 3), np.uint8)
    return Drawn(spaces.Dict({"camera": picture, "position": POSITION}), HYBRID, masked=True)


def held_mask():
    seen = {"position": POSITION, "action_mask": spaces.MultiDiscrete([2, 2, 2])}
    env = Drawn(spaces.Dict(seen), spaces.Discrete(3))
    draw = env.observe
    env.observe = lambda: {**(drawn := draw()), "action_mask": drawn["action_mask"] | np.eye(3, dtype=int)[env.now % 3]}
    return env


def frames():
    return Drawn(spaces.Box(0, 255, (40, 40), np.uint8), spaces.Discrete(3))


class Twice(gymnasium.Wrapper):
    """Takes each action in two steps."""

    def step(self, action):
        self.env.step(action)
        return self.env.step(action)


def twice():
    return Twice(gymnasium.make("InvertedPendulum-v5", frame_skip=2))


def short_run(make, folder, *, network=None, **settings):
    """A run of a few updates, whose last layers are not near zero as ours are at first."""
    return proximo.train(
        make,
        steps=64,
        seed=0,
        run=str(folder),
        environments=2,
        rollout_length=16,
        episodes=1,
        episode_limit=5,
        update={"epochs": 1, "minibatch_size": 32},
        network={"hidden": (24, 16), "orthogonal": False, **(network or {})},
        progress="quiet",
        **settings,
    )
