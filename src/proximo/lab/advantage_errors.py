"""Bias and variance of GAE's advantages, apart, beside a truth that is sampled."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from proximo.core.advantages import gae
from proximo.lab.continuations import Paths, Values, World, follow, sampled_returns

LAMBDAS = (0.0, 0.5, 0.9, 0.95, 0.99, 1.0)
PERFECT = "perfect"


@dataclass(frozen=True)
class Plan:
    """How much is sampled."""

    states: int = 20
    actions: int = 2
    """In each state."""
    paths: int = 128
    """From each state and action."""
    length: int = 80
    """Steps of these, and of what V is sampled from: the rest is discounted to 2 %."""
    perfect: tuple[int, int] = (5, 30)
    """The same two for the perfect critic, whose V is sampled at every state on the way."""
    truth: int = 150
    """Continuations from the state that an action leads to, and as many for the perfect critic's V of it."""
    inner: int = 3
    """Continuations from each later state on the way."""


def study(
    world: World, critics: Mapping[str, Values], starts: np.ndarray, plan: Plan, gamma: float
) -> dict[str, dict[str, Any]]:
    """Bias and variance with each critic, and with the perfect one.

    Args:
        world: whose step follows from state and action without chance: then A(s, a) = r + gamma V(s') - V(s).
        critics: by name.
        starts: states `[plan.states, ...]`.
        plan: how much is sampled.
        gamma: discount per step.
    """
    states = starts.repeat(plan.actions, 0)
    actions = world.act(states)
    step = follow(world, states, 1, actions)
    sampled = sampled_returns(world, step.states[1], 2 * plan.truth, plan.length, gamma)
    sampled[step.terminated[0]] = 0.0
    halves = sampled[:, : plan.truth].mean(1), sampled[:, plan.truth :].mean(1)
    doubt = gamma**2 * float(sampled.var(1, ddof=1).mean()) / plan.truth
    # V(s) is the same number for all actions of a state, which `errors` takes off.
    truth = (step.rewards[0] + gamma * halves[0]).reshape(plan.states, plan.actions)

    def paths(count: int, length: int) -> Paths:
        return follow(world, states.repeat(count, 0), length, actions.repeat(count, 0))

    many = paths(plan.paths, plan.length)
    found = {
        name: errors(np.stack([values(x) for x in many.states]), many, truth, doubt, gamma)
        for name, values in critics.items()
    }
    few = paths(*plan.perfect)
    values = np.zeros(few.states.shape[:2])
    values[1] = halves[1].repeat(plan.perfect[0])
    later = np.vstack([np.zeros_like(few.terminated[:2]), ~few.terminated[1:]])
    values[later] = sampled_returns(world, few.states[later], plan.inner, plan.length, gamma).mean(1)
    return {PERFECT: errors(values, few, truth, doubt, gamma, doubt), **found}


def errors(
    values: np.ndarray, paths: Paths, truth: np.ndarray, doubt: float, gamma: float, own: float = 0.0
) -> dict[str, Any]:
    """Bias and variance of the first step's advantage, over many paths from the same states and actions.

    What an estimate is wrong by for all actions of a state alike is a baseline and changes no gradient on average, so
    it is taken off; what sampling adds to a squared mean is taken off too, so a squared bias may come out below 0.

    Args:
        values: the critic's, `[L + 1, P]`.
        paths: of states, actions and repetitions, in this order.
        truth: `[states, actions]`, the advantage but for a number of each state.
        doubt: variance of `truth` by sampling.
        gamma: discount per step.
        own: of the critic's value of the state that the first step leads to, discounted, where that is sampled.

    Returns:
        `bias` (squared) and `variance`, for each of `LAMBDAS`, and `signal`, the variance of the truth over the actions
        of a state; all in squared rewards.
    """
    ends = torch.from_numpy(paths.terminated)
    rewards, now, after = (torch.from_numpy(x) for x in (paths.rewards, values[:-1], values[1:]))
    found: dict[str, Any] = {"signal": float(truth.var(1, ddof=1).mean() - doubt), "bias": [], "variance": []}
    for lam in LAMBDAS:
        first = gae(rewards, now, after, ends, ends, gamma=gamma, lam=lam)[0][0].numpy().reshape(*truth.shape, -1)
        spread = first.var(2, ddof=1).mean()
        off = (first.mean(2) - truth).var(1, ddof=1).mean()
        noise = spread / first.shape[2] + doubt + (1 - lam) ** 2 * own
        found["bias"].append(float(off - noise))
        found["variance"].append(float(spread))
    return found
