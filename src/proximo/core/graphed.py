"""One minibatch's gradient recorded once and replayed: on a GPU, launching small kernels costs more than they do.

The update has static shapes (equal minibatches, weights instead of gaps), which is what a CUDA graph asks for.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from proximo.core.batch import Batch
from proximo.core.objectives import LossStatistics, Objective
from proximo.core.update import Gradient, Measuring

Work = Callable[[], LossStatistics]
Recorder = Callable[[Work], tuple[Callable[[], None], LossStatistics]]
"""Records work on fixed tensors; gives what repeats it, and the tensors that a repetition fills."""


class GraphedGradient:
    """A `core.update.Gradient` whose work is recorded at the first minibatch of each shape and objective.

    Args:
        gradient: what is recorded; it must not ask for a tensor's number or shape its work by one.
        accumulated: what it adds to (a `FlatAdam`'s `gradient`).
        record: how; a CUDA graph by default.
        code: what the work consists of beside numbers; where it has changed, the work is recorded anew.
    """

    def __init__(
        self,
        gradient: Gradient,
        accumulated: Tensor,
        record: Recorder | None = None,
        *,
        code: Callable[[], object] = tuple,
    ) -> None:
        self._gradient, self._accumulated, self._code = gradient, accumulated, code
        self._record = record or record_cuda_graph
        self._key: object = None

    def divergence(self, minibatch: Batch) -> float:
        """See `core.update.Measuring`; once in an update, so it is not recorded. NaN where the gradient can not say."""
        return self._gradient.divergence(minibatch) if isinstance(self._gradient, Measuring) else math.nan

    def __call__(self, minibatch: Batch, objective: Objective) -> LossStatistics:
        """Add the minibatch's gradient."""
        key = objective, self._code(), [(name, x.shape, x.dtype) for name, x in minibatch.named_tensors()]
        if key != self._key:
            self._prepare(minibatch, objective)
            self._key = key
        for (_, fixed), (_, x) in zip(self._fixed.named_tensors(), minibatch.named_tensors(), strict=True):
            fixed.copy_(x)
        self._replay()
        # The next replay writes over these.
        return LossStatistics(*[x.clone() for x in self._statistics])

    def _prepare(self, minibatch: Batch, objective: Objective) -> None:
        fixed = self._fixed = minibatch.map(torch.clone)
        kept = self._accumulated.clone()
        self._replay, self._statistics = self._record(lambda: self._gradient(fixed, objective))
        # Recording runs the work a few times, and each added a gradient.
        self._accumulated.copy_(kept)


def record_cuda_graph(work: Work) -> tuple[Callable[[], None], LossStatistics]:
    """Record work on the current CUDA device as a graph (see torch's notes on CUDA graphs)."""
    # Run first on a stream apart, as capture asks: lazy initialisations may not be part of a graph.
    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        for _ in range(3):
            work()
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        statistics = work()
    return graph.replay, statistics
