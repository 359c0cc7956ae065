"""Environments with one planted mistake each, as functions that make one (`broken_environments:flipped`)."""

import itertools
import time

import gymnasium
import numpy as np
from gymnasium import spaces


class Changed(gymnasium.Wrapper):
    """A task with its rewards, observations and ends passed through functions."""

    def __init__(self, env, reward=lambda r: r, observation=lambda o: o, ends=lambda t, c: (t, c)):
        super().__init__(env)
        self._reward, self._observation, self._ends = reward, observation, ends
        size = env.observation_space.shape
        self.observation_space = spaces.Box(-np.inf, np.inf, size, np.float32)

    def reset(self, **kwargs):
        observation, info = self.env.reset(**kwargs)
        return self._seen(observation), info

    def step(self, action):
        observation, reward, terminated, truncated, info = self.env.step(action)
        return self._seen(observation), self._reward(reward), *self._ends(terminated, truncated), info

    def _seen(self, observation):
        return np.asarray(self._observation(observation), np.float32)


def flipped(task="CartPole-v1"):
    """The reward has the wrong sign."""
    return Changed(gymnasium.make(task), reward=lambda r: -r)


def scaled(task="Pendulum-v1", reward=1e4, observation=1.0):
    """Rewards or observations in unlucky units."""
    return Changed(gymnasium.make(task), lambda r: r * reward, lambda o: o * observation)


def lying(task="Pendulum-v1"):
    """The time limit is reported as a terminal state."""
    return Changed(gymnasium.make(task), ends=lambda terminated, truncated: (terminated or truncated, False))


def endless(task="Pendulum-v1"):
    """Never ends."""
    return Changed(gymnasium.make(task).unwrapped, ends=lambda *_: (False, False))


def unrewarded(task="CartPole-v1"):
    """Every reward is 0."""
    return Changed(gymnasium.make(task), reward=lambda r: 0.0)


def uncountable(task="CartPole-v1"):
    """Random numbers that follow from no seed."""
    noise = np.random.default_rng()
    return Changed(gymnasium.make(task), observation=lambda o: o + noise.normal(0, 0.05, o.shape))


def constant_dimension(task="Pendulum-v1"):
    """One dimension of the observation never changes."""
    return Changed(gymnasium.make(task), observation=lambda o: np.concatenate([o[:-1], [7.0]]))


class Exploding(Changed):
    """One dimension of the observation doubles every few steps."""

    def reset(self, **kwargs):
        self.now = 0
        return super().reset(**kwargs)

    def step(self, action):
        self.now += 1
        return super().step(action)


def exploding(task="Pendulum-v1"):
    """A counter that grows as 1.15^t."""
    env = Exploding(gymnasium.make(task))
    env._observation = lambda o: np.concatenate([o[:-1], [1.15**env.now]])
    return env


class Leaking(Changed):
    """A reset does not forget: the seed's episode starts where the last one ended."""

    def __init__(self, task):
        super().__init__(gymnasium.make(task))
        self.drift = 0.0
        self._observation = lambda o: o + self.drift

    def step(self, action):
        self.drift += 0.01
        return super().step(action)


def leaking(task="CartPole-v1"):
    """State that survives a reset."""
    return Leaking(task)


class Wide(gymnasium.ActionWrapper):
    """Bounds that are a thousand times what the task can use."""

    def __init__(self, task, factor=1e3):
        super().__init__(gymnasium.make(task))
        inner = self.env.action_space
        self.action_space = spaces.Box(inner.low * factor, inner.high * factor, dtype=np.float32)

    def action(self, action):
        return np.clip(action, self.env.action_space.low, self.env.action_space.high)


def wide(task="Pendulum-v1", factor=1e3):
    """Action bounds that nothing needs."""
    return Wide(task, factor)


class Hoarding(Changed):
    """Keeps 20 kB of every step for ever."""

    kept = itertools.count()

    def __init__(self, task):
        super().__init__(gymnasium.make(task))
        self.hoard = []

    def step(self, action):
        self.hoard.append(np.ones(2500))
        return super().step(action)


def hoarding(task="CartPole-v1"):
    """A leak of memory."""
    return Hoarding(task)


def slow(task="Pendulum-v1", milliseconds=20):
    """50 steps a second."""

    def wait(reward):
        time.sleep(milliseconds / 1e3)
        return reward

    return Changed(gymnasium.make(task), reward=wait)


def decided(task="CartPole-v1"):
    """Ends at its first step, whatever is done."""
    return Changed(gymnasium.make(task), ends=lambda *_: (True, False))
