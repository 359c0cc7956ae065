"""PPO's objectives (Schulman et al. 2017, arXiv 1707.06347), as losses to be minimised."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from proximo.core.divergences import kl_k3
from proximo.core.statistics import weighted_mean


class SurrogateStatistics(NamedTuple):
    """What the policy did in one minibatch; scalars without gradient."""

    approx_kl: Tensor
    """k3 estimate of KL(old policy, policy), nats."""
    clip_fraction: Tensor
    """Share of samples whose ratio lies outside [1 - clip, 1 + clip]."""
    ratio_deviation: Tensor
    """max |ratio - 1| over samples of positive weight."""


def _counted(x: Tensor, weight: Tensor | None) -> Tensor:
    """`x` with 0 where the weight is 0: such a sample may hold anything, and here its gradient, 0 * NaN, is stopped."""
    return x if weight is None else torch.where(weight > 0, x, 0.0)


def clipped_surrogate(
    log_prob: Tensor,
    old_log_prob: Tensor,
    advantages: Tensor,
    *,
    clip: float | None,
    weight: Tensor | None = None,
    dual_clip: float | None = None,
    total_weight: Tensor | float | None = None,
    clip_high: float | None = None,
) -> tuple[Tensor, SurrogateStatistics]:
    """The negative of PPO's clipped objective (Schulman et al. 2017, eq. 7).

    L = -mean min(ratio * A, clamp(ratio, 1 - clip, 1 + clip) * A), ratio = exp(log_prob - old_log_prob).
    Without a clip it is eq. 6, whose gradient at ratio 1 is the policy gradient. With `dual_clip` = c the minimum is
    floored at c * A where A < 0 (Ye et al. 2020, arXiv 1912.09729, eq. 5).

    Args:
        log_prob: log-probs of the actions under the policy, any shape, with gradient.
        old_log_prob: under the policy that took them, same shape.
        advantages: same shape.
        clip: half-width of the interval around 1; None for no clip.
        weight: 0 leaves a sample out.
        dual_clip: c > 1, or None.
        total_weight: denominator of the mean where this is part of a minibatch.
        clip_high: the interval's width above 1, where it is another than below (Yu et al. 2025, arXiv 2503.14476,
            section 3.1).

    Returns:
        `(loss, statistics)`, a scalar with gradient and scalars without.
    """
    high = clip if clip_high is None else clip_high
    log_ratio = _counted(log_prob - old_log_prob, weight)
    ratio = log_ratio.exp()
    objective = ratio * advantages
    if clip is not None and high is not None:
        objective = torch.minimum(objective, ratio.clamp(1 - clip, 1 + high) * advantages)
    if dual_clip is not None:
        objective = torch.where(advantages < 0, torch.maximum(objective, dual_clip * advantages), objective)
    loss = -weighted_mean(objective, weight, total_weight)
    with torch.no_grad():
        deviation = (ratio - 1).abs()
        outside = torch.zeros_like(ratio)
        if clip is not None and high is not None:
            outside = ((deviation > clip) if clip == high else (ratio < 1 - clip) | (ratio > 1 + high)).to(ratio.dtype)
        statistics = SurrogateStatistics(
            approx_kl=weighted_mean(kl_k3(old_log_prob, log_prob), weight, total_weight),
            clip_fraction=weighted_mean(outside, weight, total_weight),
            ratio_deviation=deviation.max(),
        )
    return loss, statistics


def value_loss(
    values: Tensor,
    returns: Tensor,
    *,
    old_values: Tensor | None = None,
    clip: float | None = None,
    weight: Tensor | None = None,
    total_weight: Tensor | float | None = None,
) -> Tensor:
    """Half the mean squared error of the critic, mean (values - returns)^2 / 2.

    With `clip`, values are also held within `clip` of `old_values` and the larger error counts (the value clipping of
    OpenAI's baselines; Engstrom et al. 2020, arXiv 2005.12729, section 3).

    Args:
        values: V(s), any shape, with gradient.
        returns: targets, same shape.
        old_values: V(s) when the rollout was taken; needed with `clip`.
        clip: in units of the values, or None.
        weight: 0 leaves a sample out.
        total_weight: denominator of the mean where this is part of a minibatch.

    Raises:
        ValueError: `clip` without `old_values`.
    """
    values = _counted(values, weight)
    error = (values - returns) ** 2
    if clip is not None:
        if old_values is None:
            raise ValueError("clipping the value loss needs old_values")
        clipped = old_values + (values - old_values).clamp(-clip, clip)
        error = torch.maximum(error, (clipped - returns) ** 2)
    return 0.5 * weighted_mean(error, weight, total_weight)


@dataclass(frozen=True)
class Objective:
    """The numbers of one minibatch's loss, after schedules have been read."""

    clip: float | None = 0.2
    value_coefficient: float = 0.5
    entropy_coefficient: float = 0.0
    value_clip: float | None = None
    dual_clip: float | None = None


def ppo_loss(
    log_prob: Tensor,
    entropy: Tensor,
    values: Tensor | None,
    *,
    old_log_prob: Tensor,
    advantages: Tensor,
    returns: Tensor,
    old_values: Tensor,
    weight: Tensor,
    objective: Objective,
    total_weight: Tensor | float | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Policy loss + value_coefficient * value loss - entropy_coefficient * entropy (Schulman et al. 2017, eq. 9).

    All tensors share one shape. `values` is None for a policy whose critic is trained elsewhere.

    Returns:
        `(loss, statistics)`: a scalar with gradient, and by name, in the order in which they are reported, scalars
        without: `policy_loss`, `value_loss`, `entropy` and those of `SurrogateStatistics`.
    """
    policy, surrogate = clipped_surrogate(
        log_prob,
        old_log_prob,
        advantages,
        clip=objective.clip,
        weight=weight,
        dual_clip=objective.dual_clip,
        total_weight=total_weight,
    )
    mean_entropy = weighted_mean(entropy, weight, total_weight)
    value = torch.zeros_like(policy)
    if values is not None:
        value = value_loss(
            values, returns, old_values=old_values, clip=objective.value_clip, weight=weight, total_weight=total_weight
        )
    loss = policy + objective.value_coefficient * value - objective.entropy_coefficient * mean_entropy
    parts = {"policy_loss": policy.detach(), "value_loss": value.detach(), "entropy": mean_entropy.detach()}
    return loss, {**parts, **surrogate._asdict()}
