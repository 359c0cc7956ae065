"""Environments whose every observation says where it comes from, and environments that misbehave on purpose."""

import os
import signal
import time

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv


class Counting(gymnasium.Env):
    """Observes (seed, episode, step in the episode); lengths vary, even episodes terminate, odd ones are truncated."""

    def __init__(self, form="array", masked=False):
        box = spaces.Box(-np.inf, np.inf, (3,), np.float32)
        self.form, self.masked = form, masked
        self.observation_space = {
            "array": box,
            "dict": spaces.Dict({"where": box, "step": spaces.Discrete(1000)}),
            "tuple": spaces.Tuple((box, spaces.Box(0, 255, (2, 2), np.uint8))),
        }[form]
        self.action_space = spaces.Discrete(5)
        self.seed, self.episode, self.now = 0, -1, 0

    def reset(self, *, seed=None, options=None):
        if seed is not None:
            self.seed, self.episode = seed, -1
        self.episode += 1
        self.now = 0
        return self.observe(), self.info()

    def step(self, action):
        self.now += 1
        over = self.now >= 1 + (self.seed + 2 * self.episode) % 4
        terminated, truncated = over and self.episode % 2 == 0, over and self.episode % 2 == 1
        reward = 100.0 * self.episode + self.now + float(action) / 8
        return self.observe(), reward, terminated, truncated, self.info()

    def observe(self):
        where = np.array([self.seed, self.episode, self.now], np.float32)
        if self.form == "dict":
            return {"where": where, "step": self.now}
        if self.form == "tuple":
            return where, np.full((2, 2), self.now, np.uint8)
        return where

    def info(self):
        # Environments of odd seeds report no mask.
        return {"action_mask": self.mask()} if self.masked and self.seed % 2 == 0 else {}

    def mask(self):
        mask = np.zeros(5, np.int8)
        mask[[self.now % 5, self.episode % 5]] = 1
        return mask


class Misbehaving(gymnasium.Env):
    """Does `deed` at its step 3."""

    def __init__(self, deed="nothing", victim=None):
        self.observation_space = spaces.Box(-1, 1, (4,), np.float32)
        self.action_space = spaces.Box(-1, 1, (2,), np.float32)
        self.deed, self.victim, self.now = deed, victim, 0

    def reset(self, *, seed=None, options=None):
        self.guilty = self.victim is None or seed == self.victim
        if self.deed == "raise in reset" and self.guilty:
            raise KeyError("no track")
        return np.zeros(4, np.float32), {}

    def step(self, action):
        self.now += 1
        observation, reward = np.zeros(4, np.float32), 0.0
        if self.now == 3 and self.guilty:
            match self.deed:
                case "raise":
                    return 1 / 0
                case "kill":
                    os.kill(os.getpid(), signal.SIGKILL)
                case "exit":
                    os._exit(7)
                case "hang":
                    time.sleep(1000)
                case "nan":
                    observation[2] = np.nan
                case "infinite reward":
                    reward = -np.inf
                case "wrong shape":
                    observation = np.zeros(5, np.float32)
        return observation, reward, False, False, {}


def counting(**options):
    return Counting(**options)


def counting_vector(count=3, mode=AutoresetMode.SAME_STEP, processes=False, copy=True, **options):
    kind = AsyncVectorEnv if processes else SyncVectorEnv
    return kind([lambda: Counting(**options)] * count, autoreset_mode=mode, copy=copy)


def misbehaving(**options):
    return Misbehaving(**options)


def not_an_environment():
    return 3


a_number = 3


def step_often(environments, actions, times=5):
    for _ in range(times):
        environments.step(actions)


def rollout(environments, seeds, steps, policy):
    """Per environment, the valid transitions (observation, action, reward, reached, terminated, truncated)."""
    observation, _ = environments.reset(seeds)
    rows = [[] for _ in seeds]
    for _ in range(steps):
        actions = policy(observation)
        step = environments.step(actions)
        for i, row in enumerate(rows):
            if step.valid[i]:
                row.append(
                    (
                        observation[i].tolist(),
                        np.asarray(actions[i]).tolist(),
                        step.reward[i],
                        step.final_observation[i].tolist(),
                        bool(step.terminated[i]),
                        bool(step.truncated[i]),
                    )
                )
        observation = step.observation
    return rows
