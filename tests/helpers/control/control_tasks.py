"""Tasks whose values and best actions are known on paper, and others that show one thing each."""

import time
from pathlib import Path
from typing import ClassVar

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv

_ONE = np.ones(1, np.float32)


class Probe(gymnasium.Env):
    """The five probes (after Andy Jones, "Debugging RL", and rejax).

    1: one step, reward 1. 2: one step, observation ±1, reward = observation. 3: two steps, reward 1 at the end.
    4: one step, reward says which action was right. 5: as 4, and the right action depends on the observation.

    Args:
        number: which.
        view: "vector" [1], "pixels" uint8 [size, size, 1], "dict" (vector and mask).
        actions: "discrete" (2; the right one is 1, or the observation's sign), "box" in [-2, 6] (the right one is 4,
            or 1 and 5 by the observation's sign; reward -(action - right)^2), "masked" (3 choices of which the best is
            forbidden).
        size: of the image.
    """

    def __init__(self, number=1, view="vector", actions="discrete", size=12):
        self.number, self.view, self.actions, self.size = number, view, actions, size
        self.observation_space = {
            "vector": spaces.Box(-2, 2, (1,), np.float32),
            "pixels": spaces.Box(0, 255, (size, size, 1), np.uint8),
            "dict": spaces.Dict({"sign": spaces.Box(-2, 2, (1,), np.float32), "action_mask": spaces.MultiBinary(3)}),
        }[view]
        self.action_space = {
            "discrete": spaces.Discrete(2),
            "box": spaces.Box(-2, 6, (1,), np.float32),
            "masked": spaces.Discrete(3),
        }[actions]

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.now = 0
        self.sign = 1.0 if self.number in (1, 4) else self.np_random.choice([-1.0, 1.0])
        if self.number == 3:
            self.sign = -1.0  # the first of the two states
        return self.observe(), self.info()

    def step(self, action):
        sign, self.now = self.sign, self.now + 1
        if self.number == 3:
            self.sign = 1.0
            return self.observe(), float(self.now == 2), self.now == 2, False, self.info()
        reward = {1: 1.0, 2: sign}.get(self.number)
        return self.observe(), self.reward(action, sign) if reward is None else reward, True, False, self.info()

    def reward(self, action, sign):
        depends = self.number == 5
        if self.actions == "box":
            right = (5.0 if sign > 0 else 1.0) if depends else 4.0
            return -((float(action[0]) - right) ** 2)
        if self.actions == "masked":  # choice 2 would pay most, and is forbidden
            return 5.0 if action == 2 else self.hit(action, sign, depends)
        return self.hit(action, sign, depends)

    def hit(self, action, sign, depends):
        return float(action == (int(sign > 0) if depends else 1))

    def observe(self):
        if self.view == "pixels":
            image = np.zeros((self.size, self.size, 1), np.uint8)
            half = self.size // 2
            image[slice(0, half) if self.sign < 0 else slice(half, None)] = 255
            return image
        vector = np.array([self.sign], np.float32)
        return {"sign": vector, "action_mask": np.array([1, 1, 0], np.int8)} if self.view == "dict" else vector

    def info(self):
        masked = self.actions == "masked" and self.view != "dict"
        return {"action_mask": np.array([1, 1, 0], np.int8)} if masked else {}


def probe(**options):
    return Probe(**options)


class Steady(gymnasium.Env):
    """Pays 1 in every step for ever; after `limit` steps the clock ends it, which is no end of the task.

    Args:
        limit: steps.
        lies: report the time limit as a terminal state, which it is not.
    """

    observation_space = spaces.Box(-1, 1, (1,), np.float32)
    action_space = spaces.Discrete(2)

    def __init__(self, limit=20, lies=False):
        self.limit, self.lies = limit, lies

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.now = 0
        return _ONE, {}

    def step(self, action):
        self.now += 1
        over = self.now == self.limit
        return _ONE, 1.0, over and self.lies, over and not self.lies, {}


def steady(**options):
    return Steady(**options)


class Talkative(Steady):
    """`Steady` that prints in every step.

    Args:
        quiet: does not print.
        closes: its `close` does not fail.
    """

    def __init__(self, quiet=False, closes=True):
        super().__init__()
        self.quiet, self.closes = quiet, closes

    def step(self, action):
        if not self.quiet:
            print("a word of the environment", flush=True)
        return super().step(action)

    def close(self):
        if not self.closes:
            raise OSError("the simulator's licence server is gone")


def talkative(**options):
    return Talkative(**options)


def steady_vector(count=8, mode="same", **options):
    modes = {"same": AutoresetMode.SAME_STEP, "next": AutoresetMode.NEXT_STEP, "disabled": AutoresetMode.DISABLED}
    return SyncVectorEnv([lambda: Steady(**options)] * count, autoreset_mode=modes[mode])


class Scripted(gymnasium.Env):
    """Episodes of given lengths, the even ones terminated and the odd ones truncated; rewards depend on the action.

    The observation says (episode, step in it, environment) through a smooth function, so every state looks different.
    """

    observation_space = spaces.Box(-2, 2, (3,), np.float32)

    def __init__(self, lengths=(3, 5, 4), discrete=True, index=0):
        self.lengths, self.index, self.episode = lengths, index, -1
        self.action_space = spaces.Discrete(3) if discrete else spaces.Box(-1, 1, (2,), np.float32)

    def reset(self, *, seed=None, options=None):
        if seed is not None:
            self.episode = -1
        self.episode += 1
        self.now = 0
        return self.observe(), {}

    def step(self, action):
        self.now += 1
        over = self.now == self.lengths[self.episode % len(self.lengths)]
        terminated = over and self.episode % 2 == 0
        reward = float(np.sin(self.now + self.episode)) + 0.3 * float(np.sum(action))
        return self.observe(), reward, terminated, over and not terminated, {}

    def observe(self):
        x = np.array([self.episode, self.now, self.index], np.float64)
        return np.sin(1.0 + 2.3 * x + x[::-1] * 0.7).astype(np.float32)


def scripted_vector(mode=AutoresetMode.SAME_STEP, discrete=True, orders=((3, 5, 4), (5, 4, 3))):
    makers = [
        lambda lengths=lengths, i=i: Scripted(lengths=lengths, discrete=discrete, index=i)
        for i, lengths in enumerate(orders)
    ]
    return SyncVectorEnv(makers, autoreset_mode=mode)


class Ring(gymnasium.Env):
    """Cells in a ring, of which one number is seen; every episode starts in cell 0 and is cut after `limit` steps."""

    action_space = spaces.Discrete(2)

    def __init__(self, cells=5, limit=10):
        self.cells, self.limit, self.observation_space = cells, limit, spaces.Discrete(cells)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.now = self.cell = 0
        return self.cell, {}

    def step(self, action):
        self.now += 1
        self.cell = (self.cell + (1 if action else -1)) % self.cells
        return self.cell, float(self.np_random.normal()), False, self.now == self.limit, {}


def ring(**options):
    return Ring(**options)


class Recall(gymnasium.Env):
    """A cue of ±1 is shown in the first step only; the action of the last step must name it."""

    observation_space = spaces.Box(-1, 1, (2,), np.float32)
    action_space = spaces.Discrete(2)

    def __init__(self, length=4):
        self.length = length

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.cue, self.now = int(self.np_random.integers(2)), 0
        return np.array([2 * self.cue - 1, 0], np.float32), {}

    def step(self, action):
        self.now += 1
        over = self.now == self.length
        last = float(self.now == self.length - 1)
        return np.array([0, last], np.float32), float(over and action == self.cue), over, False, {}


def recall(**options):
    return Recall(**options)


class Catch(gymnasium.Env):
    """A ball falls, a paddle of three pixels in the lowest row moves left, stays or moves right; 1 if caught else 0."""

    def __init__(self, size=12):
        self.size = size
        self.observation_space = spaces.Box(0, 255, (size, size, 1), np.uint8)
        self.action_space = spaces.Discrete(3)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.row = 0
        self.ball = int(self.np_random.integers(self.size))
        self.paddle = int(self.np_random.integers(1, self.size - 1))
        return self.observe(), {}

    def step(self, action):
        self.paddle = int(np.clip(self.paddle + int(action) - 1, 1, self.size - 2))
        self.row += 1
        over = self.row == self.size - 1
        return self.observe(), float(over and abs(self.ball - self.paddle) <= 1), over, False, {}

    def observe(self):
        image = np.zeros((self.size, self.size, 1), np.uint8)
        image[-1, self.paddle - 1 : self.paddle + 2] = 128
        image[self.row, self.ball] = 255
        return image


def catch(**options):
    return Catch(**options)


class Hybrid(gymnasium.Env):
    """One step: -(push - target)^2 for the continuous part, 1 for the right gear; both depend on the observation."""

    observation_space = spaces.Box(-1, 1, (1,), np.float32)
    action_space = spaces.Dict({"gear": spaces.Discrete(3, start=5), "push": spaces.Box(0, 10, (1,), np.float32)})

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.sign = self.np_random.choice([-1.0, 1.0])
        return np.array([self.sign], np.float32), {}

    def step(self, action):
        push, gear = (8.0, 5) if self.sign > 0 else (4.0, 7)
        reward = float(action["gear"] == gear) - (float(action["push"][0]) - push) ** 2 / 4
        return np.array([self.sign], np.float32), reward, True, False, {}


def hybrid(**options):
    return Hybrid(**options)


class Everything(gymnasium.Env):
    """Every kind of observation, nested, and any action space; refuses an action that the space does not contain."""

    def __init__(self, action_space=None, limit=5, layout="hwc"):
        image = (16, 12, 3) if layout == "hwc" else (3, 16, 12)
        self.observation_space = spaces.Dict(
            {
                "eye": spaces.Dict(
                    {"left": spaces.Box(0, 255, image, np.uint8), "depth": spaces.Box(0, 255, (9, 9), np.uint8)}
                ),
                "arm/joint": spaces.Box(-1, 1, (2, 2), np.float64),
                "camera/rgb": spaces.Box(0, 255, image, np.uint8),
                "tool": spaces.Discrete(3, start=-1),
                "slots": spaces.MultiDiscrete([2, 4], start=[1, 0]),
                "one slot": spaces.MultiDiscrete([3]),
                "lamps": spaces.MultiBinary(3),
                "pair": spaces.Tuple((spaces.Discrete(2), spaces.Box(-1, 1, (), np.float32))),
            }
        )
        self.action_space = action_space or spaces.Discrete(3, start=2)
        self.limit = limit

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        if seed is not None:
            self.observation_space.seed(seed)
        self.now = 0
        return self.observation_space.sample(), {}

    def step(self, action):
        assert self.action_space.contains(action), f"{action!r} is not in {self.action_space}"
        self.now += 1
        return self.observation_space.sample(), 1.0, False, self.now == self.limit, {}


def everything(**options):
    return Everything(**options)


class Breaks(gymnasium.Env):
    """Returns NaN at its step `at`."""

    observation_space = spaces.Box(-1, 1, (2,), np.float32)
    action_space = spaces.Discrete(2)

    def __init__(self, at=37):
        self.at, self.now = at, 0

    def reset(self, *, seed=None, options=None):
        return np.zeros(2, np.float32), {}

    def step(self, action):
        self.now += 1
        return np.array([0, np.nan if self.now == self.at else 0], np.float32), 0.0, False, False, {}


def breaks(**options):
    return Breaks(**options)


class Moody(gymnasium.Env):
    """Shows something new in step 5 of an episode, whatever its seed."""

    observation_space, action_space = gymnasium.spaces.Box(-1, 1, (3,)), gymnasium.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        self.now = 0
        return np.zeros(3, np.float32), {}

    def step(self, action):
        self.now += 1
        seen = np.zeros(3, np.float32)
        if self.now == 5:
            seen[1] = np.random.default_rng().random()
        return seen, 1.0, False, self.now == 7, {}


def moody(**options):
    return Moody(**options)


class Evaluated(Moody):
    """Ordinary, but a step of an evaluation at the end (of the run r) takes a second, until there is a file `fast`."""

    def step(self, action):
        if Path("r/checkpoints/final").exists() and not Path("fast").exists():
            time.sleep(1.0)
        return super().step(action)


def evaluated(**options):
    return Evaluated(**options)


class Hashed(gymnasium.Env):
    """Follows from its seed and actions, and from the seed of Python's `hash`."""

    observation_space, action_space = gymnasium.spaces.Box(0, 1, (1,)), gymnasium.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        self.now = 0
        return self.look(), {}

    def step(self, action):
        self.now += 1
        return self.look(), 1.0, False, self.now == 7, {}

    def look(self):
        return np.array([hash(f"step {self.now}") % 1000 / 1000], np.float32)


def hashed(**options):
    return Hashed(**options)


class Burdened(gymnasium.Env):
    """Pays -(action - target)² and a burden that the actor can not see: one step, target and burden drawn anew.

    Args:
        burden: deviation of what is paid whatever is done.
    """

    observation_space = spaces.Dict(
        {"state": spaces.Box(-1, 1, (1,), np.float32), "privileged_state": spaces.Box(-99, 99, (2,), np.float32)}
    )
    action_space = spaces.Box(-1, 1, (1,), np.float32)

    def __init__(self, burden=10.0):
        self.burden = burden

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.target, self.paid = self.np_random.uniform(-1, 1), self.burden * self.np_random.normal()
        return self.observe(), {}

    def step(self, action):
        reward = self.paid - (float(action[0]) - self.target) ** 2
        return self.observe(), reward, True, False, {}

    def observe(self):
        hidden = np.float32([self.paid, self.target])
        return {"state": np.float32([self.target]), "privileged_state": hidden}


def burdened(**options):
    return Burdened(**options)


class RingVector(gymnasium.vector.VectorEnv):
    """Copies walk around six cells whatever they do, and are paid 1 for leaving cell 0.

    A clock cuts an episode after 5 steps, and the next one begins in the same step, half the ring ahead. There is one
    copy for each cell and time, so each cell is always cut in exactly one of its five visits.

    Args:
        key: of the infos, that shows the cells which cut episodes reached; none hides them.
    """

    metadata: ClassVar = {"autoreset_mode": AutoresetMode.SAME_STEP}
    cells, limit = 6, 5
    num_envs = cells * limit

    def __init__(self, key="final_obs"):
        self.key = key
        self.single_observation_space, self.single_action_space = spaces.Discrete(self.cells), spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        self.at, self.now = divmod(np.arange(self.num_envs), self.limit)
        return self.at.copy(), {}

    def step(self, actions):
        reward = (self.at == 0).astype(np.float64)
        reached, self.now = (self.at + 1) % self.cells, self.now + 1
        cut = self.now == self.limit
        self.at = np.where(cut, (reached + self.cells // 2) % self.cells, reached)
        self.now[cut] = 0
        infos = {self.key: reached, f"_{self.key}": cut} if self.key and cut.any() else {}
        return self.at.copy(), reward, np.zeros(self.num_envs, bool), cut, infos


def ring_vector(**options):
    return RingVector(**options)
