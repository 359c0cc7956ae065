"""Environments that a run learns nothing in, each for one reason, and games whose best policy is the random one.

Functions that make one, so that a run names it: `fruitless_environments:ignored`.
"""

from collections import deque
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces


class Through(gymnasium.Wrapper):
    """A task with its actions, rewards and observations passed through methods that a subclass overrides."""

    def __init__(self, task: str) -> None:
        super().__init__(gymnasium.make(task))
        shape = self.env.observation_space.shape
        self.observation_space = spaces.Box(-np.inf, np.inf, shape, np.float32)

    def reset(self, *, seed=None, options=None):
        observation, info = self.env.reset(seed=seed, options=options)
        if seed is not None or not hasattr(self, "random"):
            self.random = np.random.default_rng(seed)
        self.begin()
        return self.seen(np.asarray(observation, np.float32)), info

    def step(self, action):
        observation, reward, terminated, truncated, info = self.env.step(self.taken(action))
        return self.seen(np.asarray(observation, np.float32)), self.paid(float(reward)), terminated, truncated, info

    def begin(self) -> None:
        """An episode starts."""

    def taken(self, action: Any) -> Any:
        """What the task is told."""
        return action

    def paid(self, reward: float) -> float:
        """What the policy is paid."""
        return reward

    def seen(self, observation: np.ndarray) -> np.ndarray:
        """What the policy sees."""
        return observation

    def any_action(self) -> Any:
        """One that nobody asked for."""
        space = self.env.action_space
        if isinstance(space, spaces.Discrete):
            return int(self.random.integers(space.n))
        return self.random.uniform(space.low, space.high).astype(space.dtype)


class Ignored(Through):
    """Actions never arrive: another one is taken, at random."""

    def taken(self, action):
        return self.any_action()


class HalfFlipped(Through):
    """A wire is loose: half of the time an action arrives with the wrong sign."""

    def taken(self, action):
        return -action if self.random.random() < 0.5 else action


class Weak(Through):
    """A motor with a thousandth of its force."""

    def taken(self, action):
        return np.asarray(action) * 1e-3


class LateActions(Through):
    """An action arrives 40 steps after it was sent."""

    def begin(self):
        self.queue = deque([np.zeros(self.env.action_space.shape, np.float32)] * 40)

    def taken(self, action):
        self.queue.append(action)
        return self.queue.popleft()


class Noise(Through):
    """What is seen is noise."""

    def seen(self, observation):
        return self.random.normal(size=observation.shape).astype(np.float32)


class Blank(Through):
    """What is seen is always the same."""

    def seen(self, observation):
        return np.ones_like(observation)


class Elsewhere(Through):
    """What is seen is another copy of the task, in which somebody else acts at random."""

    def __init__(self, task):
        super().__init__(task)
        self.other = gymnasium.make(task)

    def begin(self):
        self.shown, _ = self.other.reset(seed=int(self.random.integers(2**31)))

    def seen(self, observation):
        shown, _, terminated, truncated, _ = self.other.step(self.any_action())
        if terminated or truncated:
            shown, _ = self.other.reset()
        return np.asarray(shown, np.float32)


class Stale(Through):
    """What is seen is what was there 30 steps ago."""

    def begin(self):
        self.past: deque[np.ndarray] = deque(maxlen=31)

    def seen(self, observation):
        self.past.append(observation)
        return self.past[0]


class Shuffled(Through):
    """The numbers of an observation change places at each step."""

    def seen(self, observation):
        return self.random.permutation(observation).astype(np.float32)


class Tiny(Through):
    """Observations in units a million times too large."""

    def seen(self, observation):
        return observation * np.float32(1e-6)


class RandomReward(Through):
    """The reward is a coin that nobody sees."""

    def paid(self, reward):
        return float(self.random.normal())


class LateReward(Through):
    """A reward is paid 50 steps after it was earned."""

    late = 50

    def begin(self):
        self.queue = deque([0.0] * self.late)

    def paid(self, reward):
        self.queue.append(reward)
        return self.queue.popleft()


class SignOfReward(Through):
    """Only the sign of the reward is paid, and it is always the same."""

    def paid(self, reward):
        return float(np.sign(reward - 1e-9))


class AtOnce(Through):
    """Ends at its first step."""

    def step(self, action):
        observation, reward, _, _, info = super().step(action)
        return observation, reward, True, False, info


class _Pays(gymnasium.Env):
    """A task as it is, but for its reward; the innermost environment, so it is what a recorder sees."""

    def __init__(self, task: str, paid: float) -> None:
        self.inner, self.paid = gymnasium.make(task), paid
        self.observation_space, self.action_space = self.inner.observation_space, self.inner.action_space

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.inner.reset(seed=seed, options=options)

    def step(self, action):
        observation, _, terminated, truncated, info = self.inner.step(action)
        return observation, self.paid, terminated, truncated, info


class Disturbed(gymnasium.Wrapper):
    """Adds noise to the reward, as "exploration"."""

    def reset(self, *, seed=None, options=None):
        if seed is not None or not hasattr(self, "random"):
            self.random = np.random.default_rng(seed)
        return self.env.reset(seed=seed, options=options)

    def step(self, action):
        observation, reward, terminated, truncated, info = self.env.step(action)
        return observation, reward + float(self.random.normal()), terminated, truncated, info


def ignored(task="CartPole-v1"):
    """Actions do nothing."""
    return Ignored(task)


def half_flipped(task="Pendulum-v1"):
    """Half of the actions have the wrong sign."""
    return HalfFlipped(task)


def weak(task="Pendulum-v1"):
    """Actions have a thousandth of their force."""
    return Weak(task)


def late_actions(task="Pendulum-v1"):
    """Actions arrive 40 steps late."""
    return LateActions(task)


def noise(task="CartPole-v1"):
    """Observations are noise."""
    return Noise(task)


def blank(task="Acrobot-v1"):
    """Observations are constant."""
    return Blank(task)


def elsewhere(task="CartPole-v1"):
    """Observations are another copy's."""
    return Elsewhere(task)


def stale(task="Pendulum-v1"):
    """Observations are 30 steps old."""
    return Stale(task)


def shuffled(task="CartPole-v1"):
    """Observations' numbers change places."""
    return Shuffled(task)


def tiny(task="CartPole-v1"):
    """Observations × 0.000001."""
    return Tiny(task)


def random_reward(task="Pendulum-v1"):
    """The reward is a coin."""
    return RandomReward(task)


def late_reward(task="Pendulum-v1"):
    """The reward comes 50 steps late."""
    return LateReward(task)


def sign_of_reward(task="Pendulum-v1"):
    """The reward is its sign, which never changes."""
    return SignOfReward(task)


def at_once(task="CartPole-v1"):
    """Ends at once."""
    return AtOnce(task)


def normalized_constant(task="Pendulum-v1"):
    """A constant reward below Gymnasium's own NormalizeReward."""
    return gymnasium.wrappers.NormalizeReward(gymnasium.wrappers.TimeLimit(_Pays(task, 1.0), 200))


def disturbed_constant(task="Acrobot-v1"):
    """No reward, below a wrapper that adds noise; cut after 200 steps."""
    return Disturbed(gymnasium.wrappers.TimeLimit(_Pays(task, 0.0), 200))


class Pennies(gymnasium.Env):
    """Matching pennies, 20 rounds: the other side has no habit, or learns ours and plays against it.

    With a stranger every policy is as good. Against one that knows our habits the best policy is the random one.
    """

    observation_space = spaces.Box(-1.0, 1.0, (2,), np.float32)
    action_space = spaces.Discrete(2)

    def __init__(self, knows_us: bool) -> None:
        self.knows_us = knows_us
        self.habit = 0.5

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.now, self.last, self.habit = 0, (0.0, 0.0), 0.5
        return np.array(self.last, np.float32), {}

    def step(self, action):
        lean = float(np.clip(4.0 * (self.habit - 0.5), -0.5, 0.5)) if self.knows_us else 0.0
        theirs = int(self.np_random.random() >= 0.5 + lean)  # plays what we do not
        self.habit += 0.1 * (float(action) - self.habit)
        self.now += 1
        self.last = (2.0 * action - 1.0, 2.0 * theirs - 1.0)
        return np.array(self.last, np.float32), 1.0 if theirs == action else -1.0, False, self.now == 20, {}


def pennies():
    """Matching pennies against a stranger."""
    return Pennies(False)


def pennies_against_a_reader():
    """Matching pennies against somebody who learns our habits."""
    return Pennies(True)


class Bandit(gymnasium.Env):
    """Ten draws from four arms whose mean rewards are 0, 0.2, 0.4 and 1, of deviation 1; nothing is seen."""

    observation_space = spaces.Box(-1.0, 1.0, (1,), np.float32)
    action_space = spaces.Discrete(4)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.now = 0
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.now += 1
        reward = (0.0, 0.2, 0.4, 1.0)[int(action)] + float(self.np_random.normal())
        return np.zeros(1, np.float32), reward, False, self.now == 10, {}


def bandit():
    """Four arms."""
    return Bandit()
