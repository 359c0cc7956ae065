"""An update over several ranks: each has a part of every minibatch, and all take the same step."""

from collections.abc import Callable, Iterable
from dataclasses import replace

import torch
from torch import Tensor

from proximo.core.batch import Batch
from proximo.core.ranks import Ranks, even
from proximo.core.updates.optimizer import FlatAdam, Optimizer
from proximo.core.updates.update import Gradient, Measuring, Statistics
from proximo.errors import UserError

_NUMBERS = 64
"""Statistics of a minibatch that find room behind the gradient, a flag that it failed, and each rank's deviation."""


def room(ranks: Ranks) -> int:
    """Numbers that `SummedGradient` needs behind the gradient (`FlatAdam`)."""
    return 0 if ranks.size == 1 else 1 + ranks.size + _NUMBERS


def split_across(shuffled: Batch, count: int, ranks: Ranks, denominator: Callable[[Batch], Tensor]) -> Iterable[Batch]:
    """This rank's parts of `count` minibatches, each with the minibatch's total weight over all ranks.

    Samples are shuffled within a rank only: each minibatch holds the same share of every rank's samples, so no rank
    waits for another that drew more of them.

    Args:
        shuffled: this rank's samples.
        count: minibatches.
        ranks: that have the other parts.
        denominator: what sums over a minibatch are divided by; it adds up over parts.
    """
    if ranks.size == 1:
        return shuffled.split(count)
    parts = list(shuffled.split(even(len(shuffled), count)))
    totals = ranks.sum_across_ranks(torch.stack([denominator(part) for part in parts]))
    return [replace(part, total_weight=total) for part, total in zip(parts, totals, strict=True)]


class SummedGradient:
    """The gradient of a minibatch that lies on several ranks: one sum over them carries it and its statistics.

    Args:
        gradient: adds that of this rank's part, as a share of the whole (`Batch.total_weight`).
        ranks: that have the other parts.
        optimizer: holds the gradient; a `FlatAdam` with `room(ranks)` behind it.
    """

    def __init__(self, gradient: Gradient, ranks: Ranks, optimizer: Optimizer) -> None:
        self._gradient, self._ranks, self._optimizer = gradient, ranks, optimizer

    def __call__(self, part: Batch) -> Statistics:
        """Add the gradient of all parts; statistics of the whole minibatch, the same on all ranks.

        Raises:
            UserError: the gradient failed on some rank; all raise it.
        """
        size, optimizer, told, failed = self._ranks.size, self._optimizer, dict[str, Tensor | float](), None
        behind = optimizer.flat.new_zeros(room(self._ranks))
        try:
            told = dict(self._gradient(part))
            # A maximum, by way of a sum: each rank's deviation has a place of its own.
            behind[1 + self._ranks.rank] = told.pop("ratio_deviation")
            behind[1 + size : 1 + size + len(told)] = self._shares(told, behind)
        except Exception as error:
            if not isinstance(optimizer, FlatAdam):
                raise  # the backward pass has sums of its own, and the others wait in one of them
            failed, behind[0] = error, 1.0
        sums = optimizer.sum_across(self._ranks, behind)
        if sums[0]:
            with self._ranks.together():
                if failed is not None:
                    raise failed
        totals = dict(zip(told, sums[1 + size : 1 + size + len(told)], strict=True))
        totals["ratio_deviation"] = sums[1 : 1 + size].max()
        closed = isinstance(told["approx_kl"], float)
        return {name: float(x) for name, x in totals.items()} if closed else totals

    def _shares(self, told: Statistics, like: Tensor) -> Tensor:
        """This rank's shares of the statistics, in their order."""
        if len(told) > _NUMBERS:
            raise UserError(f"the loss reports {len(told)} numbers: with several ranks {_NUMBERS} can be summed")
        # A closed form gives shares as plain numbers; elsewhere these are the same for every part.
        closed = isinstance(told["approx_kl"], float)
        shares = [x if closed or isinstance(x, Tensor) else x / self._ranks.size for x in told.values()]
        if closed:
            return like.new_tensor(shares)
        return torch.stack([torch.as_tensor(x, dtype=like.dtype, device=like.device) for x in shares])

    def divergence(self, part: Batch) -> float:
        """See `Measuring`."""
        assert isinstance(self._gradient, Measuring)
        share = torch.tensor([self._gradient.divergence(part)], dtype=torch.float64)
        return float(self._ranks.sum_across_ranks(share))
