"""How a judge's score goes with the way from the reference: a curve through what was measured, and the peak.

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
SOUGHT = 4
"""How often a peak is sought at most, each time among means over as many neighbours as the last one asks for."""


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
        return float(_peaks_of(torch.tensor([[self.start, self.alpha, self.beta]], dtype=torch.float64)))


@dataclass(frozen=True)
class Fit:
    """A curve, and where the peak is."""

    curve: Curve
    peak: float
    """√KL of the highest score: as measured where it is behind, or else as the curve foretells it; may be infinite."""
    low: float
    """Of the interval that covers the peak with 95 %; may be infinite, as `high`."""
    high: float
    passed: float
    """Share of the resamples whose peak is behind."""


def fit(scores: Tensor, divergences: Tensor, *, seed: int = 0) -> Fit | None:
    """The curve by least squares, and the peak with an interval by a bootstrap over the prompts.

    Prompts are drawn with their whole history, since some are easier than others at every measurement (Efron &
    Tibshirani 1993, section 13.3): the noise of the scores and that of the KL both count.

    Args:
        scores: `[M, P]`, of M measurements on P prompts, the first one of the reference itself.
        divergences: `[M, P]`, log-prob of each response under the policy less that under the reference, nats.
        seed: of the resamples.

    Returns:
        None with fewer than `FEWEST` measurements, or where the policy has not moved.
    """
    scores, divergences = scores.double(), divergences.double()
    prompts = scores.shape[1]
    whole = fit_of_means(_distance(divergences.mean(1)), scores.mean(1))
    if whole is None:
        return None
    draws = torch.randint(prompts, (RESAMPLES, prompts), generator=torch.Generator().manual_seed(seed))
    _, peaks, behind = _peaks(_distance(divergences[:, draws].mean(2).T), scores[:, draws].mean(2).T)
    ordered = peaks.sort().values
    low, high = (float(ordered[round(share * (RESAMPLES - 1))]) for share in (0.025, 0.975))
    return Fit(*whole, low, high, float(behind.double().mean()))


def fit_of_means(ways: Tensor, means: Tensor) -> tuple[Curve, float] | None:
    """Curve and peak alone, of √KL `[M]` and mean scores `[M]`; None as for `fit`."""
    if len(ways) < FEWEST or not float(ways.max()) > 0:
        return None
    curves, peaks, _ = _peaks(ways.double()[None], means.double()[None])
    return Curve(*curves[0].tolist()), float(peaks[0])


def fallen(scores: Tensor) -> float:
    """By how many standard errors the score lies below its best, with no credit for having looked for the best.

    The highest of many noisy means is high by chance. So the best is chosen by one half of the prompts and the fall is
    measured on the other, and the other way round: under no change each has mean 0 and variance 1, and their sum over
    √2 too (cross-fitting). The best is a mean of three measurements, the end of two.

    Args:
        scores: `[M, P]`, M >= 3, P >= 4.
    """
    values = scores.double()
    found = []
    for choosing, testing in ((values[:, ::2], values[:, 1::2]), (values[:, 1::2], values[:, ::2])):
        means = _smoothed(choosing.mean(1)[None], 1)[0]
        best = int(means[:-2].argmax())
        fall = testing[max(0, best - 1) : best + 2].mean(0) - testing[-2:].mean(0)
        error = float(fall.std()) / math.sqrt(len(fall))
        found.append(float(fall.mean()) / error if error > 0 else math.copysign(math.inf, float(fall.mean()) or -1.0))
    return sum(found) / math.sqrt(2)


def _distance(divergence: Tensor) -> Tensor:
    """√KL; an estimate below 0 is one of a small KL."""
    return divergence.clamp_min(0.0).sqrt()


def _peaks(ways: Tensor, means: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Curves `[B, 3]`, √KL of their peaks `[B]` and whether these are behind `[B]`, for rows of `[B, M]`.

    A peak is behind where the highest mean of neighbours has others after it. The law is an average of many runs, and
    one run may turn sharply, so a peak that was measured is where it was measured.
    """
    count = ways.shape[1]
    curves = _least_squares(ways, means, _shares(ways))
    best, measured = _highest(ways, means)
    behind = best < count - 1 - (best // 3).clamp(1, 2)
    foretold = torch.maximum(_peaks_of(curves), measured)
    return curves, torch.where(behind, measured, foretold), behind


def _highest(ways: Tensor, means: Tensor) -> tuple[Tensor, Tensor]:
    """Index of the highest mean of neighbours `[B]` and its √KL `[B]`, for rows of `[B, M]`.

    The further a run has come, the less of its way a single measurement stands for, so the mean of the i-th reaches
    over i / 2 on each side. Of means that reach ever further, those behind the peak hold more of what is lower, which
    moves the highest one forwards. So what was found says only how far to reach, for all alike, and the highest is
    sought once more, until it stays where it is.
    """
    index = torch.arange(ways.shape[1], dtype=ways.dtype)
    reach = (index // 2).clamp_min(1).expand(len(ways), -1)
    best = torch.full((len(ways),), -1)
    for _ in range(SOUGHT):
        weights = _falling((index - index.unsqueeze(1)) / (reach.unsqueeze(2) + 1))
        found = (weights @ means.unsqueeze(2)).squeeze(2).argmax(1)
        if found.equal(best):
            break
        best, reach = found, (found.unsqueeze(1) // 2).clamp_min(1).expand_as(ways)
    return best, (weights @ ways.unsqueeze(2)).squeeze(2).gather(1, best.unsqueeze(1)).squeeze(1)


def _falling(distance: Tensor) -> Tensor:
    """Weights that fall with the square of a distance below 1 (Epanechnikov 1969); each row's sum is 1.

    Where all weigh the same, a peak is moved to its flatter side.
    """
    weights = (1 - distance.square()).clamp_min(0)
    return weights / weights.sum(-1, keepdim=True)


def _smoothed(values: Tensor, half: int) -> Tensor:
    """Means of each value and `half` neighbours on each side, as far as there are any; `[B, M]`."""
    windows = torch.nn.functional.pad(values, (half, half), value=torch.nan).unfold(1, 2 * half + 1, 1)
    return windows.nanmean(2)


def _shares(ways: Tensor) -> Tensor:
    """How much of the way each measurement stands for, `[B, M]`: half of what lies between it and its neighbours.

    Each part of the way counts the same, however often it was measured.
    """
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


def _peaks_of(curves: Tensor) -> Tensor:
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
    return sum(judged[i] * (math.comb(total - 1 - rank, count - 1) / whole) for rank, i in enumerate(order))


def divergence_of_best(count: int) -> float:
    """KL(best of n, the policy itself), nats: log n - (n - 1) / n (Stiennon et al. 2020, appendix G.3)."""
    return math.log(count) - (count - 1) / count
