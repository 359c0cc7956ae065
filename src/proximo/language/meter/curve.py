"""How a judge's score goes with the way from the reference: a curve through what was measured, and its peak.

Gao, Schulman & Hilton (2022), section 3.1: with d = sqrt(KL(policy, reference)) the score that is not optimised follows
R(d) = R(0) + d (α - β log d) under reinforcement learning. It rises with slope α at first, and falls beyond
d* = exp(α / β - 1).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

FEWEST = 5
"""Measurements that a curve of three numbers needs before it says anything."""
RESAMPLES = 200


@dataclass(frozen=True)
class Curve:
    """R(d) = start + d (alpha - beta log d)."""

    start: float
    alpha: float
    beta: float

    def at(self, distance: float) -> float:
        """The score at this √KL."""
        return self.start + (distance * (self.alpha - self.beta * math.log(distance)) if distance > 0 else 0.0)

    @property
    def peak(self) -> float:
        """√KL at which the score is highest; infinite where no end of its rise is in sight, 0 where it only falls."""
        return float(_peaks(torch.tensor([[self.start, self.alpha, self.beta]], dtype=torch.float64)))


@dataclass(frozen=True)
class Fit:
    """A curve, and how well what was measured knows it."""

    curve: Curve
    low: float
    """Of the interval that covers the peak with 95 %, √KL; may be infinite, as `high`."""
    high: float
    passed: float
    """Share of the resamples whose peak lies before the last measurement."""


def fit(scores: Tensor, divergences: Tensor, *, seed: int = 0) -> Fit | None:
    """The curve by weighted least squares, its peak's interval by a bootstrap over the prompts.

    What lies near the peak counts most, with weights that fall like a Gaussian over a third of its distance: far beyond
    it the score follows no law that is known. Each part of the way counts the same, however often it was measured.
    Prompts are drawn with their whole history, since their noise is the same at every measurement (Efron & Tibshirani
    1993, section 13.3): that of the scores and that of the KL both count.

    Args:
        scores: `[M, P]`, of M measurements on P prompts, the first one of the reference itself.
        divergences: `[M, P]`, log-prob of each response under the policy less that under the reference, nats.
        seed: of the resamples.

    Returns:
        None with fewer than `FEWEST` measurements, or where the policy has not moved.
    """
    scores, divergences = scores.double(), divergences.double()
    count, prompts = scores.shape
    way = _distance(divergences.mean(1))
    if count < FEWEST or not float(way.max()) > 0:
        return None
    start, alpha, beta = _around_the_peak(way[None], scores.mean(1)[None])[0].tolist()
    draws = torch.randint(prompts, (RESAMPLES, prompts), generator=torch.Generator().manual_seed(seed))
    curves = _around_the_peak(_distance(divergences[:, draws].mean(2).T), scores[:, draws].mean(2).T)
    peaks = _peaks(curves)
    ordered = peaks.sort().values
    low, high = (float(ordered[round(share * (RESAMPLES - 1))]) for share in (0.025, 0.975))
    return Fit(Curve(start, alpha, beta), low, high, float((peaks < way[-1]).double().mean()))


def fit_of_means(ways: Tensor, means: Tensor) -> Curve | None:
    """The curve alone, of √KL `[M]` and mean scores `[M]`; None with fewer than `FEWEST` measurements."""
    if len(ways) < FEWEST or not float(ways.max()) > 0:
        return None
    return Curve(*_around_the_peak(ways.double()[None], means.double()[None])[0].tolist())


def _distance(divergence: Tensor) -> Tensor:
    """√KL; an estimate below 0 is one of a small KL."""
    return divergence.clamp_min(0.0).sqrt()


def _around_the_peak(ways: Tensor, means: Tensor) -> Tensor:
    """`[B, 3]`: start, α and β for each row of `[B, M]`, by weights around the peak that the weights lead to."""
    shares, furthest = _shares(ways), ways.amax(1)
    near = _gaussian(ways.unsqueeze(2) - ways.unsqueeze(1), (_SMOOTH * furthest).view(-1, 1, 1)) * shares.unsqueeze(1)
    smooth = (near * means.unsqueeze(1)).sum(2) / near.sum(2).clamp_min(1e-12)
    least = _LEAST * furthest
    centre = torch.maximum(ways.gather(1, smooth.argmax(1, keepdim=True)).squeeze(1), least)
    for _ in range(_ROUNDS):
        weights = _gaussian(ways - centre.unsqueeze(1), _REACH * centre.unsqueeze(1)) * shares
        curves = _least_squares(ways, means, weights)
        # Half of the way: a centre that jumps takes its weights along, and may jump back.
        centre = (centre + _peaks(curves).clamp_min(0.0).minimum(furthest).maximum(least)) / 2
    return curves


_REACH, _SMOOTH, _LEAST, _ROUNDS = 1 / 3, 0.15, 0.1, 6


def _gaussian(x: Tensor, width: Tensor) -> Tensor:
    return torch.exp(-0.5 * (x / width.clamp_min(1e-9)) ** 2)


def _shares(ways: Tensor) -> Tensor:
    """How much of the way each measurement stands for, `[B, M]`: half of what lies between it and its neighbours."""
    ordered, order = ways.sort(1)
    gaps = ordered.diff(dim=1) / 2
    shares = torch.nn.functional.pad(gaps, (0, 1)) + torch.nn.functional.pad(gaps, (1, 0))
    return torch.zeros_like(ways).scatter(1, order, shares) + 1e-6


def _least_squares(ways: Tensor, means: Tensor, weights: Tensor) -> Tensor:
    """`[B, 3]`: start, α and β for each row of `[B, M]`."""
    bent = torch.where(ways > 0, -ways * ways.clamp_min(1e-12).log(), 0.0)
    features = torch.stack([torch.ones_like(ways), ways, bent], 2)
    root = weights.sqrt().unsqueeze(2)
    return torch.linalg.lstsq(features * root, means.unsqueeze(2) * root, driver="gelsd").solution.squeeze(2)


def _peaks(curves: Tensor) -> Tensor:
    """√KL of each curve's peak, `[B]`, see `Curve.peak`."""
    alpha, beta = curves[:, 1], curves[:, 2]
    inside = (alpha / torch.where(beta > 0, beta, 1.0) - 1).clamp_max(700.0).exp()
    return torch.where(beta > 0, inside, torch.where(alpha > 0, torch.inf, 0.0))


def best_of_n(scores: Sequence[float], judged: Sequence[float], count: int) -> float:
    """Mean judge score of the response that the reward likes best of `count`, estimated from more than `count`.

    Every subset of that size is taken: of n responses in the order of their rewards, the i-th best is the best of a
    subset in C(n - 1 - i, count - 1) of C(n, count) cases (Nakano et al. 2021, appendix I).

    Args:
        scores: what is maximised, `[n]`.
        judged: what is reported, `[n]`.
        count: responses that one is chosen from.

    Raises:
        ValueError: there are fewer than `count`.
    """
    total = len(scores)
    if not 1 <= count <= total:
        raise ValueError(f"the best of {count} can not be estimated from {total}")
    order = sorted(range(total), key=lambda i: -scores[i])
    whole = math.comb(total, count)
    return sum(judged[i] * math.comb(total - 1 - rank, count - 1) / whole for rank, i in enumerate(order))


def divergence_of_best(count: int) -> float:
    """KL(best of n, the policy itself), nats: log n - (n - 1) / n (Stiennon et al. 2020, appendix G.3)."""
    return math.log(count) - (count - 1) / count
