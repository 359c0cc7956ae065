"""Weighted means, running moments and explained variance."""

import math

import torch
from torch import Tensor, nn

from proximo.core.ranks import ALONE, Ranks


def weighted_mean(
    x: Tensor, weight: Tensor | None = None, total_weight: Tensor | float | None = None, *, rows: bool = False
) -> Tensor:
    """Mean of `x` under `weight`: sum(weight * x) / total_weight.

    Args:
        x: any shape.
        weight: same shape as `x`, or broadcastable to it; 0 leaves a sample out. None means all ones.
        total_weight: denominator. Give the sum over a whole minibatch when `x` is only a part of it, so that
            splitting a minibatch changes no gradient. None means the sum of `weight`.
        rows: a mean for each entry of the leading axis, instead of one over all.

    Returns:
        A scalar, or with `rows` `[len(x), 1, ...]`; 0 where the total weight is 0, so that an empty part adds nothing.
    """

    def total(values: Tensor) -> Tensor:
        return values.sum(list(range(1, values.dim())), keepdim=True) if rows else values.sum()

    if weight is None:
        count = x.numel() // max(1, len(x)) if rows else x.numel()
        return total(x) / (count if total_weight is None else total_weight)
    weight = weight.to(x.dtype).expand_as(x)
    share = total(weight) if total_weight is None else torch.as_tensor(total_weight, dtype=x.dtype, device=x.device)
    # A sample of weight 0 may hold anything, NaN included: select before multiplying.
    return total(torch.where(weight > 0, weight * x, 0.0)) / share.clamp_min(torch.finfo(x.dtype).tiny)


def weighted_moments(x: Tensor, weight: Tensor | None = None, *, rows: bool = False) -> tuple[Tensor, Tensor]:
    """Mean and population variance of `x` under `weight`; exactly 0 where samples differ by rounding alone.

    Args:
        x: any shape, floating point.
        weight: as in `weighted_mean`.
        rows: as there.

    Returns:
        Two scalars, or with `rows` two tensors `[len(x), 1, ...]`.
    """
    mean = weighted_mean(x, weight, rows=rows)
    # A long sum is off by many roundings; the mean of what is left over brings the mean within one.
    mean = mean + weighted_mean(x - mean, weight, rows=rows)
    variance = weighted_mean((x - mean) ** 2, weight, rows=rows)
    # Samples that were meant to be equal differ by a few (mean * machine epsilon): that is no variance.
    rounding = (mean.abs() * torch.finfo(x.dtype).eps * 4) ** 2
    return mean, torch.where(variance <= rounding, 0.0, variance)


def high_quantile(x: Tensor, share: float) -> Tensor:
    """The smallest entry of `x` that at least `share` of all entries do not exceed, a scalar; 1 is the maximum.
    0 of nothing.
    """
    x = x.reshape(-1)
    if not len(x):
        return x.new_zeros(())
    return x.kthvalue(max(1, math.ceil(share * len(x)))).values


def alike(x: Tensor, other: Tensor) -> Tensor:
    """Whether numbers are equal but for rounding: four last bits of a float32."""
    return (x - other).abs() <= 4 * torch.finfo(torch.float32).eps * torch.maximum(x.abs(), other.abs())


def informative(rewards: Tensor, weight: Tensor | None = None, ranks: Ranks = ALONE) -> tuple[float, float]:
    """How much rewards say, whatever their offset.

    Args:
        rewards: any shape.
        weight: 0 leaves a reward out.
        ranks: each has rewards of its own, and takes the distances from their own median; the scale is that of all.

    Returns:
        The share that differs from the commonest value, and the rewards' own scale: the root mean square distance from
        the median of those that are not the median. A success of 1 among zeros has the scale 1, however rare it is;
        normal rewards have their standard deviation; equal ones have 0.
    """
    seen = rewards.reshape(-1) if weight is None else rewards[weight > 0]
    away, commonest = seen, 0
    if len(seen):
        values, counts = seen.unique(return_counts=True)
        commonest = int(alike(seen, values[counts.argmax()]).sum())
        middle = seen.median()
        away = (seen - middle)[~alike(seen, middle)]
    scale = float(away.square().mean().sqrt()) if len(away) else 0.0
    if ranks.size > 1:
        squares, count = ranks.sum_across_ranks(torch.tensor([scale**2 * len(away), len(away)], dtype=torch.float64))
        scale = math.sqrt(float(squares / count.clamp_min(1)))
    return (1 - commonest / len(seen) if len(seen) else 0.0), scale


def scale_of_rewards(rewards: Tensor, weight: Tensor, ranks: Ranks = ALONE) -> float:
    """The rewards' own scale, see `informative`; 1 where every one of them is 0.

    Then there is nothing to learn, and 1 holds the critic's errors down, which would be whitened up to that. Equal ones
    that are not 0 have no scale: what differs is how long episodes last.
    """
    scale = informative(rewards, weight, ranks)[1]
    size = ranks.sum_across_ranks(rewards[weight > 0].abs().sum())
    return scale if float(size) else 1.0


def root_mean_square(x: Tensor, weight: Tensor | None = None) -> Tensor:
    """sqrt(mean of x^2) under `weight`, a scalar. Arguments as `weighted_mean`."""
    return weighted_mean(x.square(), weight).sqrt()


def explained_variance(predictions: Tensor, targets: Tensor, weight: Tensor | None = None) -> Tensor:
    """1 - Var[targets - predictions] / Var[targets]: 1 is a perfect critic, 0 one that knows only the mean.

    Args:
        predictions: values, any shape.
        targets: returns, same shape.
        weight: 0 leaves a sample out.

    Returns:
        A scalar; NaN where the targets do not vary, since the question has no answer there.
    """
    _, error_variance = weighted_moments(targets - predictions, weight)
    _, variance = weighted_moments(targets, weight)
    return torch.where(variance > 0, 1 - error_variance / variance, torch.nan)


class RunningMoments(nn.Module):
    """Count, mean and variance of a stream, in float64, mergeable (Chan, Golub & LeVeque 1979, eq. 2.1).

    The moments are buffers: they are saved, loaded and moved with the module that owns them. Before the first
    sample the mean is 0 and the variance 1, so a fresh normaliser is the identity.
    """

    count: Tensor
    mean: Tensor
    squares: Tensor  # sum of squared deviations from the mean

    def __init__(self, shape: tuple[int, ...] = ()) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))
        self.register_buffer("mean", torch.zeros(shape, dtype=torch.float64))
        self.register_buffer("squares", torch.zeros(shape, dtype=torch.float64))

    @torch.no_grad()
    def absorb(self, x: Tensor, weight: Tensor | None = None, ranks: Ranks = ALONE) -> None:
        """Take in samples, those of all ranks.

        Args:
            x: `[..., *shape]`.
            weight: `[...]`, 0 or 1: which samples count. None takes all.
            ranks: each has samples of its own; the moments come out the same on all.
        """
        x = x.reshape(-1, *self.mean.shape).to(torch.float64)
        if weight is not None:
            x = x[weight.reshape(-1) > 0]
        if len(x) == 0 and ranks.size == 1:
            return
        mean = x.mean(0) if len(x) else torch.zeros_like(self.mean)
        count, squares = torch.tensor(len(x)), ((x - mean) ** 2).sum(0)
        if ranks.size > 1:
            count, mean, squares = self._of_all(count, mean, squares, ranks)
        self.merge(count, mean, squares)

    def _of_all(self, count: Tensor, mean: Tensor, squares: Tensor, ranks: Ranks) -> tuple[Tensor, Tensor, Tensor]:
        """Moments of all ranks' samples, merged in the ranks' order."""
        packed = torch.cat([count.to(mean).reshape(1), mean.reshape(-1), squares.reshape(-1)])
        whole, size = RunningMoments(tuple(mean.shape)).to(mean.device), mean.numel()
        for row in ranks.gather(packed):
            whole.merge(row[0], row[1 : 1 + size].view_as(mean), row[1 + size :].view_as(mean))
        return whole.count, whole.mean, whole.squares

    @torch.no_grad()
    def merge(self, count: Tensor, mean: Tensor, squares: Tensor) -> None:
        """Take in the moments of another stream (of another process, or of a batch)."""
        total = self.count + count.to(self.count)
        delta = mean.to(self.mean) - self.mean
        share = count.to(self.count) / total.clamp_min(1)
        self.squares += squares.to(self.squares) + delta**2 * self.count * share
        self.mean += delta * share
        self.count.copy_(total)

    @property
    def variance(self) -> Tensor:
        """Population variance, `shape`; 1 before there are two samples."""
        return torch.where(self.count > 1, self.squares / self.count.clamp_min(1), 1.0)

    def scale(self, epsilon: float = 1e-8) -> Tensor:
        """sqrt(variance + epsilon), `shape`, float64."""
        return torch.sqrt(self.variance + epsilon)
