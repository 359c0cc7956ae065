"""The scale of scores: what standardisation takes out of them."""

import math

from torch import Tensor

from proximo.errors import UserError

_ROUNDING = 1e-6
"""Of scores, relative to their size: the same text in another batch differs by less."""


def mean_and_std(scores: Tensor, scorer: str) -> tuple[float, float]:
    """Mean and standard deviation of scores that are to be divided by it.

    Args:
        scores: `[n]`, float64.
        scorer: what gave them, as in "the reward model".

    Raises:
        UserError: they do not differ, or are not finite.
    """
    mean, std = float(scores.mean()), float(scores.std(unbiased=False))
    if not (math.isfinite(std) and std > _ROUNDING * max(abs(mean), 1e-2)):
        raise UserError(f"{scorer} gives all {len(scores)} texts the same score ({mean:g}): train it longer")
    return mean, std
