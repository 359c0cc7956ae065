"""Several seeds as one statement: interquartile means and bootstrap intervals (Agarwal et al. 2021, arXiv 2108.13264).

Interquartile mean and probability of improvement are rliable's. The intervals are percentile bootstraps over seeds
(Efron & Tibshirani 1993, section 13.3) with draws that are always the same: the bootstrap of rliable 1.2.0 runs with
neither `arch` 7.2 (it can not be imported beside pandas 3.1) nor 8.0 (it takes no `random_state`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType

import numpy as np

from proximo.errors import UserError

RESAMPLES = 2000
WITHOUT = "rliable is not installed, so there are no interquartile means: pip install 'proximo[lab]'"


@dataclass(frozen=True)
class Estimate:
    """A number with the interval that covers 95 %."""

    value: float
    low: float
    high: float


def rliable_metrics() -> ModuleType:
    """The module of rliable's statistics.

    Raises:
        UserError: it is not installed; says how to get it.
    """
    try:
        from rliable import metrics
    except ImportError as error:
        raise UserError(WITHOUT) from error
    return metrics


def import_statistics() -> None:
    """Import what the statistics need, if it is there: it takes a second, once."""
    try:
        rliable_metrics()
        import scipy.stats  # noqa: F401
    except (UserError, ImportError):
        return


def _draws(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(count, size=(RESAMPLES, count))


def interquartile_mean(scores: Sequence[float]) -> Estimate:
    """Interquartile mean over seeds: the mean without the lowest and the highest quarter, all of it below four seeds.

    Raises:
        UserError: rliable is not installed.
    """
    curve = interquartile_curve(np.asarray(scores, np.float64)[:, None])
    return Estimate(*(float(line[0]) for line in curve))


def interquartile_curve(scores: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The same at each point of `[seeds, points]`: means and the ends of their intervals, each `[points]`.

    Raises:
        UserError: rliable is not installed.
    """
    metrics = rliable_metrics()
    from scipy.stats import trim_mean  # what rliable's interquartile mean is, for all points and draws at once

    means = np.array([metrics.aggregate_iqm(column[:, None]) for column in scores.T])
    drawn = trim_mean(scores[_draws(len(scores))], 0.25, axis=1)
    low, high = np.quantile(drawn, [0.025, 0.975], axis=0)
    return means, low, high


def difference(a: Sequence[float], b: Sequence[float]) -> Estimate:
    """Interquartile mean of `a` less that of `b`, both sides resampled independently.

    Raises:
        UserError: rliable is not installed.
    """
    rliable_metrics()
    from scipy.stats import trim_mean

    x, y = np.asarray(a, np.float64), np.asarray(b, np.float64)
    drawn = trim_mean(x[_draws(len(x))], 0.25, axis=1) - trim_mean(y[_draws(len(y), seed=1)], 0.25, axis=1)
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Estimate(float(trim_mean(x, 0.25) - trim_mean(y, 0.25)), float(low), float(high))


def probability_of_improvement(a: Sequence[float], b: Sequence[float]) -> Estimate:
    """P(a run of `a` scores more than a run of `b`), ties counted half, over all pairs.

    Raises:
        UserError: rliable is not installed.
    """
    metrics = rliable_metrics()
    x, y = (np.asarray(side, np.float64)[:, None] for side in (a, b))
    wins = (x > y.T) + 0.5 * (x == y.T)  # [a, b], whose mean is rliable's number: drawn 2,000 times, that takes seconds
    i, j = _draws(len(x)), _draws(len(y), seed=1)
    drawn = wins[i[:, :, None], j[:, None, :]].mean((1, 2))
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Estimate(float(metrics.probability_of_improvement(x, y)), float(low), float(high))
