"""Advantages and returns, time-major: the leading axis is time, every further axis is independent."""

import torch
from torch import Tensor

from proximo.core.statistics import weighted_moments


def gae(
    rewards: Tensor,
    values: Tensor,
    next_values: Tensor,
    terminated: Tensor,
    done: Tensor,
    *,
    gamma: float,
    lam: float,
) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimation (Schulman et al. 2016, arXiv 1506.02438, eq. 16), with ends told apart.

    Args:
        rewards: `[T, ...]`, r_t.
        values: `[T, ...]`, V(s_t).
        next_values: `[T, ...]`, V(s_{t+1}) of the state really reached: at a time limit V(final observation),
            never the value of the state after the reset.
        terminated: `[T, ...]` bool: the episode ended by itself, nothing follows.
        done: `[T, ...]` bool: the chain of rewards ends here (terminated, truncated, or a row that reports a reset).
        gamma: discount per step, in [0, 1].
        lam: λ in [0, 1]; 0 is the one-step TD error, 1 the discounted return minus the value.

    Returns:
        `(advantages, returns)`, each `[T, ...]`; returns = advantages + values.

    Raises:
        ValueError: the shapes differ.
    """
    shapes = {tuple(x.shape) for x in (rewards, values, next_values, terminated, done)}
    if len(shapes) != 1:
        raise ValueError(f"gae needs tensors of one shape [T, ...], got {sorted(shapes)}")
    # delta_t = r_t + gamma * V(s_{t+1}) * (1 - terminated_t) - V(s_t)
    deltas = rewards + gamma * torch.where(terminated.bool(), 0.0, next_values) - values
    ends = done.bool()
    advantages = torch.empty_like(deltas)
    following = torch.zeros_like(deltas[0])
    # Taken apart at once: indexing step by step costs more than the arithmetic.
    for delta, end, advantage in reversed(list(zip(deltas.unbind(), ends.unbind(), advantages.unbind(), strict=True))):
        # A_t = delta_t + gamma * lam * (1 - done_t) * A_{t+1}; selected, since 0 * NaN would flow over the end
        following = torch.add(delta, following, alpha=gamma * lam)
        following = torch.where(end, delta, following, out=advantage)
    return advantages, advantages + values


def whiten(
    x: Tensor,
    weight: Tensor | None = None,
    *,
    shift_mean: bool = True,
    epsilon: float = 1e-8,
    rows: bool = False,
    floor: float = 0.0,
) -> Tensor:
    """Scale to variance 1 and, if `shift_mean`, to mean 0, over the samples of positive weight.

    Args:
        x: any shape.
        weight: same shape; samples of weight 0 do not count and come back scaled by the same numbers.
        shift_mean: False keeps the mean where it is (the sign of every sample of a centred batch stays).
        epsilon: added to the standard deviation.
        rows: each entry of the leading axis by itself.
        floor: the least that is divided by: what varies less than that is not made larger than it deserves.

    Returns:
        Same shape. With fewer than two samples, or with no variance, there is nothing to scale by: the mean is
        removed (if asked) and the scale is left alone.
    """
    # A single sample has no variance, as has constant data.
    mean, variance = weighted_moments(x, weight, rows=rows)
    scale = torch.where(variance > 0, (torch.sqrt(variance) + epsilon).clamp_min(floor), 1.0)
    whitened = (x - mean) / scale
    return whitened if shift_mean else whitened + mean
