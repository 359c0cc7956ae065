"""How good the critic is, over a window of rollouts that an episode fits into."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from proximo.core.ranks import ALONE, Ranks
from proximo.core.statistics import RunningMoments

MOST = 256
"""Rollouts that are kept, where an episode is longer than so many."""


class Moments(NamedTuple):
    """Count, mean and summed squared deviations of one rollout's returns, and of what the critic missed of them."""

    samples: int
    mean: float
    squares: float
    error_mean: float
    error_squares: float


class CriticWindow:
    """Pools the explained variance.

    Environments that start together are cut together, so the returns of one rollout may hardly differ: all at the start
    of an episode, or all far from its end. What the critic explains of so little says nothing about it, and swings with
    the phase of the episode. Over a whole episode the denominator stays what it is.
    """

    def __init__(self) -> None:
        self._rollouts: deque[Moments] = deque(maxlen=MOST)

    def add(self, values: Tensor, returns: Tensor, weight: Tensor, rollouts: int, ranks: Ranks = ALONE) -> None:
        """Take in a rollout, that of all ranks.

        Args:
            values: the critic's, in units of reward, any shape.
            returns: its targets, same shape.
            weight: 0 leaves a sample out.
            rollouts: how many, with this one, an episode fits into.
            ranks: each has a part of the rollout.
        """
        real = weight > 0
        targets, errors = (x[real].double() for x in (returns, returns - values))
        if ranks.size > 1:
            found = [RunningMoments(), RunningMoments()]
            for moments, x in zip(found, (targets, errors), strict=True):
                moments.absorb(x, ranks=ranks)
            parts = [float(x) for moments in found for x in (moments.mean, moments.squares)]
            self._keep(Moments(int(found[0].count), *parts), rollouts)
            return
        if not len(targets):
            return
        columns = [
            moment for x in (targets, errors) for moment in (float(x.mean()), float((x - x.mean()).square().sum()))
        ]
        self._keep(Moments(len(targets), *columns), rollouts)

    def _keep(self, moments: Moments, rollouts: int) -> None:
        self._rollouts.append(moments)
        while len(self._rollouts) > max(1, rollouts):
            self._rollouts.popleft()

    def measured(self) -> dict[str, float]:
        """By name, of all rollouts together: `explained_variance`, 1 - Var[errors] / Var[returns]; `critic_error`, the
        root mean square error in units of the returns' deviation. NaN where returns do not vary.
        """
        mean, variance = self._pooled(1)
        error_mean, error_variance = self._pooled(3)
        # Returns that were meant to be equal differ by roundings.
        if not variance > (4 * torch.finfo(torch.float32).eps * mean) ** 2:
            return {"explained_variance": math.nan, "critic_error": math.nan}
        size = error_variance + error_mean**2
        return {"explained_variance": 1 - error_variance / variance, "critic_error": math.sqrt(size / variance)}

    def _pooled(self, column: int) -> tuple[float, float]:
        """Mean and population variance of all samples, from those of each rollout (Chan et al. 1979, eq. 2.1)."""
        total = sum(rollout.samples for rollout in self._rollouts)
        if not total:
            return math.nan, math.nan
        mean = sum(rollout.samples * rollout[column] for rollout in self._rollouts) / total
        between = sum(rollout.samples * (rollout[column] - mean) ** 2 for rollout in self._rollouts)
        return mean, (sum(rollout[column + 1] for rollout in self._rollouts) + between) / total

    def state(self) -> list[list[float]]:
        """For a checkpoint, as JSON."""
        return [list(rollout) for rollout in self._rollouts]

    def load(self, state: Sequence[Sequence[float]]) -> None:
        """Take over what `state` gave."""
        self._rollouts.clear()
        self._rollouts.extend(Moments(int(samples), *rest) for samples, *rest in state)
