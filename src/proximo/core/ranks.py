"""What mathematics asks of the processes that train one policy together. Here it is one process alone."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


class Ranks:
    """One process: every sum over all is its own. `proximo.scale.Mesh` is the same for several, one device each."""

    rank: int = 0
    """Which of them this one is; 0 writes the run's folder."""
    size: int = 1
    """How many there are."""

    def sum_across_ranks(self, x: Tensor) -> Tensor:
        """The sum of all ranks' `x`, in place.

        Args:
            x: of one shape and type on all ranks; pack what is needed at one point into one tensor.

        Returns:
            `x` itself.
        """
        return x

    def gather(self, x: Tensor) -> Tensor:
        """All ranks' `x`, as `[size, *x.shape]`."""
        return x[None]

    def most(self, count: int) -> int:
        """The largest of all ranks' counts."""
        return count if self.size == 1 else int(self.gather(torch.tensor([count])).max())

    def share(self, count: int) -> slice:
        """This rank's part of `count` things in order; parts differ by one at most, and the first ones are larger."""
        sizes = even(count, self.size)
        start = sum(sizes[: self.rank])
        return slice(start, start + sizes[self.rank])

    @contextmanager
    def together(self) -> Iterator[None]:
        """Code without a sum over ranks in it, that fails on all ranks, with the same words, if it fails on one."""
        yield


ALONE = Ranks()


def even(count: int, parts: int) -> list[int]:
    """Sizes of `parts` parts of `count` that differ by one at most, the larger ones first."""
    size, more = divmod(count, parts)
    return [size + (i < more) for i in range(parts)]
