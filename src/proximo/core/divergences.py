"""Kullback-Leibler divergences: estimators from samples, and controllers that hold one at a target.

All are in nats. Exact divergences between two distributions are `Distribution.kl` in `distributions`.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


def kl_k1(log_prob: Tensor, ref_log_prob: Tensor) -> Tensor:
    """k1 = log p(x) - log q(x), x ~ p: unbiased for KL(p, q), of either sign (Schulman 2020, "Approximating KL").

    Args:
        log_prob: log p(x) of samples drawn from p, any shape, in nats.
        ref_log_prob: log q(x), same shape.

    Returns:
        One estimate per sample, same shape.
    """
    return log_prob - ref_log_prob


def kl_k3(log_prob: Tensor, ref_log_prob: Tensor) -> Tensor:
    """k3 = (r - 1) - log r with r = q(x) / p(x): unbiased, low variance, never negative (Schulman 2020).

    Arguments as `kl_k1`. expm1 keeps the digits where p and q are close; the clamp removes its last rounding.
    """
    log_ratio = ref_log_prob - log_prob
    return (torch.expm1(log_ratio) - log_ratio).clamp_min(0.0)


def steadied(k1: Tensor, ratio: Tensor) -> Tensor:
    """KL(p, q) of each sequence x ~ p by k1 and a control variate whose mean is 0: k1 + c (q / p - 1).

    c is the one of least variance, -cov / var over the sequences, held in [0, 1]: 0 is k1, and 1 is k3 (Schulman 2020),
    which is the better one where policies are near, and the worse one where they are far.

    Args:
        k1: `[n]`, sums of `kl_k1` over a sequence.
        ratio: `[n]`, sums of q / p - 1 over it.

    Returns:
        `[n]`, nats.
    """
    x, z = k1.double(), ratio.double()
    spread = z - z.mean()
    variance = float((spread**2).sum())
    share = -float(((x - x.mean()) * spread).sum()) / variance if variance > 0 else 0.0
    return x + min(1.0, max(0.0, share)) * z


@dataclass
class FixedKLController:
    """A KL coefficient that stays what it is."""

    coefficient: float

    def observe(self, kl: float, samples: int) -> None:
        """Nothing to adapt."""


@dataclass
class AdaptiveKLController:
    """A KL coefficient steered towards a target (Ziegler et al. 2019, arXiv 1909.08593, section 2.2).

    e = clip(kl / target - 1, -0.2, 0.2);  coefficient *= 1 + e * samples / horizon.
    """

    coefficient: float
    target: float
    """KL to hold, in nats per response (language) or per step (control)."""
    horizon: int
    """Samples over which an error of 20 % changes the coefficient by about 20 %."""

    def __post_init__(self) -> None:
        """Refuse targets that can not be steered to."""
        if self.target <= 0 or self.horizon <= 0 or self.coefficient < 0:
            raise ValueError("an adaptive KL controller needs target > 0, horizon > 0 and coefficient >= 0")

    def observe(self, kl: float, samples: int) -> None:
        """Adapt to a measured KL over `samples` samples; the KL of a batch may be negative (k1)."""
        error = min(max(kl / self.target - 1.0, -0.2), 0.2)
        # More samples than the horizon would overshoot, and could turn the sign.
        self.coefficient *= 1.0 + error * min(samples / self.horizon, 1.0)
