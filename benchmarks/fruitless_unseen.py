"""Eight more planted reasons for learning nothing, written before their author had read the rules of the diagnosis.

With what each should be called. They came last, and were run once before anything was changed for them
(docs/doctor.md says both numbers). Environments are functions that make one: `fruitless_unseen:lock`.
"""

from itertools import count

import gymnasium
import known_answer_faults as faults
import numpy as np
from fruitless_environments import Through
from gymnasium import spaces
from known_answer_cases import Case, control

_copies = count()


class _CopiesFlipped(Through):
    """Every other copy is paid with the wrong sign."""

    def __init__(self, task: str) -> None:
        super().__init__(task)
        self.sign = 1.0 if next(_copies) % 2 else -1.0

    def paid(self, reward):
        return self.sign * reward


class _PreviousEpisode(Through):
    """What is seen is what was there at the same step of the episode before."""

    def __init__(self, task: str) -> None:
        super().__init__(task)
        self.now: list[np.ndarray] = []

    def begin(self):
        self.past, self.now = self.now, []

    def seen(self, observation):
        self.now.append(observation)
        past = self.past or [np.zeros_like(observation)]
        return past[min(len(self.now), len(past)) - 1]


class _Rounded(Through):
    """A torque in whole units of 4 N m, of a motor that has 2."""

    def taken(self, action):
        return np.trunc(np.asarray(action) / 4.0).astype(np.float32)


class _PreviousReturn(Through):
    """An episode's return is paid in one sum, at the first step of the next."""

    earned = owed = 0.0

    def begin(self):
        self.owed, self.earned = self.earned, 0.0

    def paid(self, reward):
        self.earned += reward
        owed, self.owed = self.owed, 0.0
        return owed


class _Lock(gymnasium.Env):
    """Twelve right choices of four, one after the other, open a lock; a wrong one begins anew. It never opens."""

    observation_space = spaces.Box(0.0, 1.0, (12,), np.float32)
    action_space = spaces.Discrete(4)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.right, self.now = 0, 0
        return np.eye(12, dtype=np.float32)[0], {}

    def step(self, action):
        self.right = self.right + 1 if action == (7 * self.right + 3) % 4 else 0
        self.now += 1
        opened = self.right == 12
        seen = np.eye(12, dtype=np.float32)[min(self.right, 11)]
        return seen, float(opened), opened, self.now == 40, {}


def copies_flipped(task="Pendulum-v1"):
    """Half of the copies have the reward's wrong sign."""
    return _CopiesFlipped(task)


def previous_episode(task="CartPole-v1"):
    """Observations are those of the episode before."""
    return _PreviousEpisode(task)


def rounded(task="Pendulum-v1"):
    """Actions are rounded to 0."""
    return _Rounded(task)


def cut_short(task="CartPole-v1"):
    """Episodes are cut after 5 steps, before the pole can fall."""
    return gymnasium.wrappers.TimeLimit(gymnasium.make(task), 5)


def previous_return(task="CartPole-v1"):
    """Returns are paid an episode late."""
    return _PreviousReturn(task)


def lock():
    """A goal that chance does not reach."""
    return _Lock()


UNSEEN = [
    Case(
        "copies-flipped",
        "half of the copies are paid with the wrong sign (Pendulum-v1)",
        ("P049",),
        control(copies_flipped, 60_000, base="Pendulum-v1"),
    ),
    Case(
        "previous-episode",
        "observations are the previous episode's (CartPole-v1)",
        ("P047", "P048"),
        control(previous_episode, 40_000, base="CartPole-v1"),
    ),
    Case(
        "rounded", "every action is rounded to 0 (Pendulum-v1)", ("P047",), control(rounded, 60_000, base="Pendulum-v1")
    ),
    Case(
        "cut-short",
        "episodes are cut after 5 steps (CartPole-v1)",
        ("P041",),
        control(cut_short, 40_000, base="CartPole-v1"),
    ),
    Case(
        "previous-return",
        "the return is paid in the next episode's first step (CartPole-v1)",
        ("P049", "P057"),
        control(previous_return, 40_000, base="CartPole-v1"),
    ),
    Case("lock", "a goal that chance never reaches", ("P041",), control(lock, 40_000, base="CartPole-v1")),
    Case(
        "schedule-ends",
        "the learning rate's schedule is at 0 after 2 % of the run (CartPole-v1)",
        ("P022",),
        control("CartPole-v1", 40_000, learning_rate="0: 2.5e-3, 0.02: 0, 1: 0"),
    ),
    Case(
        "frozen-huge",
        "a frozen normaliser whose deviations are 100,000 (Pendulum-v1)",
        ("P011", "P040"),
        control("Pendulum-v1", 60_000, fault=faults.frozen_huge_normalizer),
    ),
]
