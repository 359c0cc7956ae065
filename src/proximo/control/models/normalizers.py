"""Running statistics of observations, rewards and returns. They move after an update, never inside an iteration."""

import numpy as np
import torch
from torch import Tensor, nn

from proximo.core.ranks import ALONE, Ranks
from proximo.core.statistics import RunningMoments

DIGITS = 1e-3
"""Of a deviation: what rounding an observation to float32 may cost before it is normalised from float64 instead."""


def far(moments: RunningMoments) -> bool:
    """Whether a mean of these is so many deviations from 0 that float32 loses more than `DIGITS` of one."""
    spacing = moments.mean.abs() * torch.finfo(torch.float32).eps
    return bool((spacing > DIGITS * moments.scale()).any())


class ObservationNormalizer(nn.Module):
    """(x - mean) / sqrt(variance + 1e-8), clipped to ±clip; part of the policy, so it can not be lost."""

    def __init__(self, size: int, clip: float) -> None:
        super().__init__()
        self.clip = clip
        self.moments = RunningMoments((size,))
        self._known, self._far = (0, 0), False

    @property
    def far(self) -> bool:
        """Whether something lies so far from 0 that float32 has no room for its digits: a clock, a place on Earth."""
        mean = self.moments.mean
        known = id(mean), mean._version  # asked at every step: only a statistic that moved is looked at again
        if known != self._known:
            self._known, self._far = known, far(self.moments)
        return self._far

    def forward(self, x: Tensor) -> Tensor:
        """`[..., D]` -> `[..., D]`, computed in the type of `x`."""
        mean, scale = self.moments.mean.to(x.dtype), self.moments.scale().to(x.dtype)
        return ((x - mean) / scale).clamp(-self.clip, self.clip)


class ValueNormalizer(nn.Module):
    """Mean and deviation of returns, in whose units a critic may predict (van Hasselt et al. 2016, PopArt).

    Until it absorbs something it is the identity, exactly.
    """

    def __init__(self) -> None:
        super().__init__()
        self.moments = RunningMoments()

    def _scale(self) -> Tensor:
        # Returns that never vary leave nothing to divide by.
        return self.moments.scale(0.0).clamp_min(1e-4)

    def to_units(self, returns: Tensor) -> Tensor:
        """Returns -> units of the critic."""
        return (returns - self.moments.mean.to(returns.dtype)) / self._scale().to(returns.dtype)

    def from_units(self, values: Tensor) -> Tensor:
        """Outputs of the critic -> discounted rewards."""
        return values * self._scale().to(values.dtype) + self.moments.mean.to(values.dtype)

    @torch.no_grad()
    def absorb(self, returns: Tensor, weight: Tensor, head: nn.Linear, ranks: Ranks = ALONE) -> None:
        """Take in returns, those of all ranks, and correct the critic's last layer so that it predicts what it did."""
        old_mean, old_scale = self.moments.mean.clone(), self._scale()
        self.moments.absorb(returns, weight, ranks)
        mean, scale = self.moments.mean, self._scale()
        # scale' * (w'x + b') + mean' = scale * (wx + b) + mean
        head.weight.mul_((old_scale / scale).to(head.weight.dtype))
        bias = (old_scale * head.bias.to(torch.float64) + old_mean - mean) / scale
        head.bias.copy_(bias.to(head.bias.dtype))


class RewardScaler(nn.Module):
    """Divides rewards by the running deviation of the discounted return (Engstrom et al. 2020, section 3, detail 2).

    The mean is not removed: a shift of rewards changes the task wherever episodes end. One accumulator per environment,
    zero at the start of an episode.
    """

    accumulated: Tensor

    def __init__(self, environments: int, gamma: float, clip: float) -> None:
        super().__init__()
        self.gamma, self.clip = gamma, clip
        self.moments = RunningMoments()
        self.register_buffer("accumulated", torch.zeros(environments, dtype=torch.float64))

    def scaled(self, rewards: np.ndarray) -> np.ndarray:
        """`[...]` -> `[...]`, clipped to ±clip."""
        return (rewards / float(self.moments.scale())).clip(-self.clip, self.clip)

    def absorb(self, rewards: np.ndarray, done: np.ndarray, valid: np.ndarray, ranks: Ranks = ALONE) -> None:
        """Take in a rollout, that of all ranks, each `[T, N]`; rows that only report a reset do not count."""
        discounted = np.empty_like(rewards, np.float64)
        accumulated = self.accumulated.numpy()
        for t in range(len(rewards)):
            accumulated *= np.where(valid[t], self.gamma, 1.0)
            accumulated += np.where(valid[t], rewards[t], 0.0)
            discounted[t] = accumulated
            accumulated[done[t]] = 0.0
        self.moments.absorb(torch.from_numpy(discounted), torch.from_numpy(valid), ranks)

    def restart(self) -> None:
        """The environments start anew."""
        self.accumulated.zero_()
