"""What must hold in every update. A check costs microseconds and says what is wrong, where, and what to do."""

import math

import torch

from proximo.core.batch import Batch


class InvariantError(RuntimeError):
    """Something that can not be true of a correct run was seen."""


def ratio_tolerance(dtype: torch.dtype) -> float:
    """How far the first minibatch's ratio may lie from 1 by rounding alone.

    The rollout scores N rows at a time and the minibatch B rows, so a matrix product may add in another order; a
    log-prob is a sum of squares divided by a variance, which enlarges that: 1e4 machine epsilons, which is 1.2e-3 in
    float32 and 2e-12 in float64.
    """
    return 1e4 * torch.finfo(dtype).eps


def gaussian_ratio_tolerance(dtype: torch.dtype, width: int, mean: float, std: float) -> float:
    """The same for Gaussian actions, whose log-prob divides the rounding of their mean by their deviation.

    A sum of `width` products is off by about eps * sqrt(width) times its size, whichever order it is taken in (Higham
    & Mary 2019, theorem 2.4), and d log p / d mean = z / std: eps * sqrt(width) * max |mean| / min std in the log-prob.
    Measured over 1 to 64 actions, networks 64 to 1,024 wide, std 1 to 0.007 and |mean| 0.1 to 300 it is 0.2 to 1.8
    times that; 8 leaves room for sums that cancel. A policy with a usual std (0.1 and more) keeps `ratio_tolerance`.

    Args:
        dtype: of the networks.
        width: most inputs that a layer of the policy sums over.
        mean: largest |mean|, in the units of the stored actions; the largest |action| will do.
        std: smallest deviation, same units.
    """
    log_ratio = 8 * torch.finfo(dtype).eps * math.sqrt(width) * mean / std
    return max(ratio_tolerance(dtype), math.expm1(min(log_ratio, 100.0)))


def check_first_ratio(deviation: float, tolerance: float) -> None:
    """At the first minibatch the policy is the one that acted: ratio = 1 for every sample.

    Args:
        deviation: |ratio - 1| over the first minibatch, its maximum or a high quantile of it.
        tolerance: what rounding explains, see `ratio_tolerance`.

    Raises:
        InvariantError: it is not.
    """
    if not deviation <= tolerance:
        raise InvariantError(
            f"ratio-not-one: at the first minibatch the probability ratio is off by {deviation:.3g}, so the policy "
            "that is trained is not the one that acted; look for a normaliser that moved inside the iteration, "
            "dropout, or log-probs of clipped actions"
        )


def check_batch(batch: Batch, counts: bool | None = None) -> None:
    """Every sample of positive weight is finite, weights are not negative, and at least one sample counts.

    Args:
        batch: of this process.
        counts: whether a sample counts on some rank, where several have parts of the batch; None looks at this one.

    Raises:
        InvariantError: names the tensor and the first bad sample.
    """
    some = bool((batch.weight > 0).any()) if counts is None else counts
    if not some or not bool((batch.weight >= 0).all()):
        raise InvariantError("weights: a batch needs weights of 0 or more, and at least one above 0")
    real = batch.weight > 0
    for name in ("log_prob", "value", "advantages", "returns"):
        # One sum instead of a mask per element: NaN and infinity survive a sum.
        x = torch.where(real, getattr(batch, name), 0.0)
        if not torch.isfinite(x.sum()):
            bad = (~torch.isfinite(x)).nonzero()
            where = f"sample {bad[0].tolist()}" if len(bad) else "a sum that overflows"
            raise InvariantError(
                f"not-finite: {name} of {where} is not a finite number; look at the rewards that led there"
            )
