"""Advantages: along time (time-major, every further axis is independent), and within groups of responses."""

from collections.abc import Sequence

import torch
from torch import Tensor

from proximo.core.ranks import ALONE, Ranks
from proximo.core.statistics import alike, weighted_moments


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


def whiten_across(x: Tensor, weight: Tensor, sizes: Sequence[int], ranks: Ranks, floor: float = 0.0) -> Tensor:
    """Variance 1 and mean 0 over minibatches of which each rank has a part, as `whiten` does for one process.

    Args:
        x: `[B, ...]`, this rank's samples of all minibatches, one after the other.
        weight: same shape; 0 leaves a sample out.
        sizes: along the leading axis, of this rank's part of each minibatch; as many on all ranks.
        ranks: that have the other parts.
        floor: as in `whiten`.

    Returns:
        Same shape. A sample that counts alone on all ranks stays as it is.
    """
    which = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes)).to(x.device)
    each = (len(x), *[1] * (x.dim() - 1))
    mass = weight.double()
    exact = torch.where(weight > 0, x, 0.0).double()

    def totals(*columns: Tensor) -> Tensor:  # [len(columns), len(sizes)]
        sums = torch.stack([column.reshape(len(x), -1).sum(1) for column in columns])
        found = sums.new_zeros((len(columns), len(sizes))).index_add_(1, which, sums)
        return ranks.sum_across_ranks(found)

    count, total, first = totals((weight > 0).double(), mass, mass * exact)
    total = total.clamp_min(torch.finfo(torch.float64).tiny)
    mean = first / total
    centred = exact - mean[which].view(each)
    variance = totals(mass * centred**2)[0] / total
    variance = torch.where(variance <= (mean.abs() * torch.finfo(x.dtype).eps * 4) ** 2, 0.0, variance)
    scale = torch.where(variance > 0, (variance.sqrt() + 1e-8).clamp_min(floor), 1.0)
    whitened = ((x.double() - mean[which].view(each)) / scale[which].view(each)).to(x.dtype)
    return torch.where(count[which].view(each) > 1, whitened, x)


def leave_one_out(scores: Tensor, group: int) -> Tensor:
    """Each score less the mean of the others of its group (Kool et al. 2019; Ahmadian et al. 2024, eq. 8).

    The baseline does not depend on the response that it is taken off, so the policy gradient keeps its mean.

    Args:
        scores: `[B]`, `group` of them for each prompt.
        group: 2 or more.

    Returns:
        `[B]`; 0 for a group whose scores are all equal.
    """
    rows = scores.view(-1, group)
    others = (rows.sum(1, keepdim=True) - rows) / (group - 1)
    return torch.where(_equal(rows), 0.0, rows - others).flatten()


def relative(scores: Tensor, group: int, scale: str, epsilon: float = 1e-4, ranks: Ranks = ALONE) -> Tensor:
    """Each score less the mean of its group, in units of a standard deviation (Shao et al. 2024, section 4.1.2).

    Args:
        scores: `[B]`, `group` of them for each prompt.
        group: 2 or more.
        scale: whose deviation: `group`, `batch`, or `off` for none (Liu et al. 2025, arXiv 2503.20783).
        epsilon: added to the deviation.
        ranks: each has groups of its own; a batch is theirs together.

    Returns:
        `[B]`; 0 for a group whose scores are all equal.
    """
    rows = scores.view(-1, group)
    centred = rows - rows.mean(1, keepdim=True)
    centred = torch.where(_equal(rows), 0.0, centred)
    if scale == "group":
        centred = centred / (rows.std(1, keepdim=True) + epsilon)
    elif scale == "batch":
        centred = centred / (_deviation(scores, ranks) + epsilon)
    return centred.flatten()


def _equal(rows: Tensor) -> Tensor:
    """Of each row, whether its scores are equal but for rounding, which a deviation of about 0, or Adam, would blow up;
    `[G, 1]`.
    """
    return alike(rows, rows[:, :1]).all(1, keepdim=True)


def _deviation(x: Tensor, ranks: Ranks) -> Tensor:
    """Standard deviation of all ranks' samples, with n - 1; a scalar."""
    if ranks.size == 1:
        return x.std()
    exact = x.double()
    count, total = ranks.sum_across_ranks(torch.stack([exact.new_tensor(len(x)), exact.sum()]))
    squares = ranks.sum_across_ranks(((exact - total / count) ** 2).sum())
    return (squares / (count - 1)).sqrt().to(x.dtype)
