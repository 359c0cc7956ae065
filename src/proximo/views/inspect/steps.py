"""An episode in numbers: what followed each step, and what the critic and the gradient made of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from proximo.core.advantages import gae


@dataclass(frozen=True)
class Steps:
    """Each float64 `[T]`, in the units of the rewards that were learnt from."""

    reward: np.ndarray
    value: np.ndarray
    """V(s_t)."""
    returned: np.ndarray
    """The discounted rewards that really followed, with the critic's estimate where the episode was cut."""
    delta: np.ndarray
    """r_t + gamma * V(s_{t+1}) - V(s_t)."""
    advantage: np.ndarray
    """By generalised advantage estimation."""

    @property
    def count(self) -> str:
        """How many there are, in words."""
        return f"{len(self.reward):,} step{'s' * (len(self.reward) != 1)}"

    @property
    def worst(self) -> int:
        """The step at which the critic was most wrong: the largest |return - value|."""
        return int(np.abs(self.returned - self.value).argmax())


def steps_of(
    rewards: Sequence[float],
    values: Sequence[float],
    terminated: Sequence[bool],
    cut: Mapping[int, float],
    gamma: float,
    lam: float,
) -> Steps:
    """What an episode's rewards and values say.

    Args:
        rewards: T of them.
        values: V of the state before each step.
        terminated: nothing follows the step.
        cut: V of the state after each step at which the chain of rewards was cut; the last step is cut or terminated.
        gamma: discount per step.
        lam: λ.
    """
    value = torch.tensor(values, dtype=torch.float64)
    following = torch.cat([value[1:], value.new_zeros(1)])
    ended = torch.tensor(terminated, dtype=torch.bool)
    done = ended.clone()
    for t, estimate in cut.items():
        following[t], done[t] = estimate, True
    reward = torch.tensor(rewards, dtype=torch.float64)
    # λ = 0 is the one-step error, λ = 1 the return less the value (core.advantages).
    estimates = [gae(reward, value, following, ended, done, gamma=gamma, lam=x) for x in (0.0, lam, 1.0)]
    (delta, _), (advantage, _), (_, returned) = estimates
    return Steps(*(x.numpy() for x in (reward, value, returned, delta, advantage)))
