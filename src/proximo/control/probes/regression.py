"""Least squares on features that are drawn once: what explains a target, and whether that could be chance."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

WIDEST = 24
"""Columns of an observation that are used; of more, as many principal components."""
BUMPS = 64
"""Random tanh features beside the linear and the quadratic ones."""
DRAWS = 200
"""Draws of a null distribution, so that the least p value is 1 / 201."""
SURE = 4.0
"""Deviations of a normal variable above which an effect is one: 3e-5 for each of at most 50 numbers that are asked for,
so that less than one question in 500 is answered wrongly by chance."""


@dataclass(frozen=True)
class Effect:
    """Whether something explains any of several targets beyond what chance does."""

    share: float
    """The largest share of a target's variance that it explains, less what chance explains."""
    limit: float
    """The share that it can not be above, as far as the sample tells."""
    p: float
    """Probability of so much by chance, over all targets together."""
    deviations: float
    """The normal quantile of the probability that chance explains less of a single target; the largest of all."""

    def clear(self, least: float = 0.0) -> bool:
        """Whether it is no chance, and above that share."""
        return self.deviations > SURE and self.share > least


def standardized(x: np.ndarray) -> np.ndarray:
    """`[n, d]` -> `[n, k]`: columns of mean 0 and variance 1, constant ones left out; `WIDEST` components of many."""
    x = np.where(np.isfinite(x), x, 0.0)
    spread = x.std(0)
    x = (x - x.mean(0))[:, spread > 1e-12 * (1.0 + np.abs(x).max(0, initial=0.0))]
    x = np.clip(x / x.std(0), -5.0, 5.0) if x.size else x
    if x.shape[1] <= WIDEST:
        return x
    _, axes = np.linalg.eigh(x.T @ x)
    x = x @ axes[:, -WIDEST:]
    return np.asarray(x / x.std(0))


def features(x: np.ndarray) -> np.ndarray:
    """`[n, d]` -> `[n, p]`: 1, columns, their squares and products, and fixed random bumps (Rahimi & Recht 2007)."""
    x = standardized(x)
    count, size = x.shape
    parts = [np.ones((count, 1)), x]
    if 0 < size <= 8:
        first, second = np.triu_indices(size)
        parts.append(x[:, first] * x[:, second])
    elif size:
        parts.append(x * x)
    if size:
        generator = np.random.default_rng(0)
        bumps = min(BUMPS, count // 20)
        parts.append(
            np.tanh(x @ generator.normal(0, 1.0 / np.sqrt(size) + 0.5, (size, bumps)) + generator.normal(0, 1, bumps))
        )
    return np.concatenate(parts, 1)


def basis(columns: np.ndarray) -> np.ndarray:
    """Orthonormal columns `[n, r]` that span those of `[n, p]`."""
    scaled = columns / np.maximum(np.sqrt((columns**2).sum(0)), 1e-300)
    values, axes = np.linalg.eigh(scaled.T @ scaled)
    kept = values > 1e-9 * max(values[-1], 1e-300)
    return np.asarray(scaled @ (axes[:, kept] / np.sqrt(values[kept])))


def explained(columns: np.ndarray, target: np.ndarray, fold: np.ndarray) -> float:
    """Share of a target's variance that ridge regression explains where it was not fitted; at most 1, and at least 0.

    Args:
        columns: `[n, p]` features.
        target: `[n]`.
        fold: `[n]` whole numbers; each is left out in turn. Steps of one environment depend on each other, so a fold is
            some environments, or a stretch of time.

    Returns:
        The larger of two shares: of the target as it is, and without the highest and the lowest hundredth of its
        values. A crash that costs 100 in one step of a hundred hides all the others.
    """
    low, high = np.quantile(target, (0.01, 0.99)) if len(target) else (0.0, 0.0)
    return float(_explained(columns, np.stack([target, np.clip(target, low, high)], 1), fold).max())


def _explained(columns: np.ndarray, targets: np.ndarray, fold: np.ndarray) -> np.ndarray:
    """`[m]` of targets `[n, m]`."""
    folds, count = np.unique(fold), len(targets)
    centred = targets - targets.mean(0) if count else targets
    total = (centred**2).sum(0)
    varies = total > 1e-18 * count * (1.0 + np.abs(targets).max(0, initial=0.0) ** 2)
    if len(folds) < 2 or count < 50 or not varies.any():
        return np.zeros(targets.shape[1])
    gram, towards, missed = columns.T @ columns, columns.T @ centred, np.zeros(targets.shape[1])
    for each in folds:
        out, aim = columns[fold == each], centred[fold == each]
        rest = gram - out.T @ out  # less what is left out, so that a fold costs no more than its own rows
        rest[np.diag_indices_from(rest)] += 1e-4 * (count - len(out))
        missed += ((aim - out @ np.linalg.solve(rest, towards - out.T @ aim)) ** 2).sum(0)
    return np.asarray(np.where(varies, np.clip(1.0 - missed / np.where(varies, total, 1.0), 0.0, 1.0), 0.0))


def effect(given: np.ndarray, context: np.ndarray, targets: np.ndarray) -> Effect:
    """What `given` explains of `targets` beyond `context`, by least squares.

    The null distribution flips the signs of what the context leaves of each row's targets (wild bootstrap: Wu 1986,
    Liu 1988), which leaves their sizes where they are: a target may vary more in some states than in others. The
    largest of all targets is compared with the largest of all by chance.

    Args:
        given: `[n, k]`.
        context: `[n, p]`, a constant among its columns.
        targets: `[n, m]`.
    """
    left, total = outside(context, targets)
    if not left.shape[1] or not given.shape[1]:
        return Effect(0.0, 0.0, 1.0, 0.0)
    known = basis(context)
    own = basis(given - known @ (known.T @ given))
    return judged(*flipped(left, total, lambda x: ((own.T @ x) ** 2).sum(0)))


def outside(context: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What `context` `[n, p]` leaves of those targets `[n, m]` that vary, and their sums of squares."""
    total = ((targets - targets.mean(0)) ** 2).sum(0)
    varies = total > 1e-18 * len(targets) * (1.0 + (targets**2).max(0, initial=0.0))
    known = basis(context)
    return targets[:, varies] - known @ (known.T @ targets[:, varies]), total[varies]


def flipped(
    left: np.ndarray, total: np.ndarray, explains: Callable[[np.ndarray], np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Shares of what explains so much of `left` `[n, m]`, whose targets had the sums of squares `total` `[m]`: `[m]`,
    and `[DRAWS, m]` by chance, with the signs of whole rows flipped.
    """
    generator = np.random.default_rng(0)
    signs = generator.integers(0, 2, (DRAWS, len(left), 1)) * 2.0 - 1.0
    return explains(left) / total, np.stack([explains(left * sign) / total for sign in signs])


def judged(seen: np.ndarray, null: np.ndarray) -> Effect:
    """The effect of what explains the shares `seen` `[m]` of some targets, where chance explains `null` `[draws, m]`.

    Targets differ in how much the context leaves of them, so each is measured in its own chance: a sum of squares,
    which is like a multiple of a χ² variable with the same mean and variance (Satterthwaite 1946), whose cube root is
    like a normal one (Wilson & Hilferty 1931).
    """
    middle, spread = null.mean(0), null.std(0)
    width = (spread / np.maximum(3 * middle, 1e-300)) ** 2  # 2 / (9 · degrees of freedom)

    def normal(shares: np.ndarray) -> np.ndarray:
        size = np.cbrt(np.maximum(shares, 0.0) / np.maximum(middle, 1e-300))
        return np.asarray(np.where(spread > 0, (size - 1 + width) / np.sqrt(np.maximum(width, 1e-300)), 0.0))

    worst, by_chance = normal(seen).max(), normal(null).max(1)
    p = (1 + int((by_chance >= worst).sum())) / (1 + len(null))
    return Effect(float((seen - middle).max()), float((seen + 3 * spread).max()), p, float(worst))
