"""Large minibatches in parts, which several threads share.

How a minibatch is cut follows from its size and from the networks' alone, and sums are taken in one order: how many
threads there are changes no bit.
"""

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from proximo.control.closed_form.heads import Head
from proximo.control.closed_form.networks import TwinMLP

WORK = 11 * 2**19
"""Bytes of hidden values, of both networks, in a part at least: 768 samples of 512-256-128, ten milliseconds."""
SUMS = 8
"""Sums that a gradient is taken in at most, so as many threads may take part."""

Told = TypeVar("Told")


@dataclass(frozen=True)
class Worker:
    """What one thread computes with."""

    networks: TwinMLP
    head: Head


class Parts:
    """Cuts what is to be done, and has workers do it.

    Args:
        make: a worker that adds its gradients to what the given function has for each parameter.
        parameters: all that have a gradient, views of one vector, as are their gradients.
        per_sample: bytes of hidden values that a sample takes.
        threads: that take part.
    """

    def __init__(
        self,
        make: Callable[[Callable[[Tensor], Tensor]], Worker],
        parameters: Sequence[Tensor],
        per_sample: int,
        threads: int,
    ) -> None:
        self.size = max(64, WORK // max(1, per_sample) // 64 * 64)
        self._make, self._threads = make, min(threads, SUMS)
        self._parameters = [p for p in parameters if p.numel()]  # one without entries lies nowhere
        self._workers: list[tuple[Worker, Tensor]] = []
        self._sums = torch.empty(0)

    def worthwhile(self, samples: int) -> bool:
        """Whether a minibatch of so many samples is cut into parts."""
        return samples >= 2 * self.size

    def each(self, samples: int, do: Callable[[Worker, slice], Told]) -> list[Told]:
        """What `do` gives for each part, in order."""
        parts = [slice(i, min(i + self.size, samples)) for i in range(0, samples, self.size)]
        told: list[Told | None] = [None] * len(parts)

        def one(worker: Worker, room: Tensor, i: int) -> None:
            told[i] = do(worker, parts[i])

        self._share(len(parts), one)
        return told  # type: ignore[return-value]

    def add(self, samples: int, do: Callable[[Worker, slice], Told]) -> list[Told]:
        """The same of what adds a gradient, which is then added to the parameters' own."""
        count = min(SUMS, samples // self.size)
        bounds = [samples * i // count for i in range(count + 1)]
        told: list[Told | None] = [None] * count
        self._ready()

        def one(worker: Worker, room: Tensor, i: int) -> None:
            room.zero_()
            told[i] = do(worker, slice(bounds[i], bounds[i + 1]))
            self._sums[i].copy_(room)

        self._share(count, one)
        self._gradient().add_(self._sums[:count].sum(0))
        return told  # type: ignore[return-value]

    def _share(self, count: int, one: Callable[[Worker, Tensor, int], None]) -> None:
        """Have the workers take what is left until nothing is."""
        self._ready()
        left = deque(range(count))

        def work(worker: Worker, room: Tensor) -> None:
            with np.errstate(over="ignore", invalid="ignore"), torch.no_grad():  # both are of one thread alone
                while left:
                    try:
                        i = left.popleft()
                    except IndexError:  # another was faster
                        return
                    one(worker, room, i)

        if self._threads == 1 or count == 1:
            work(*self._workers[0])
            return
        with ThreadPoolExecutor(self._threads) as pool:
            for done in [pool.submit(work, *pair) for pair in self._workers[:count]]:
                done.result()

    def _ready(self) -> None:
        """Make the workers, each with room for a gradient, when first they are needed."""
        if self._workers:
            return
        first = min(self._parameters, key=lambda p: p.data_ptr())
        size, whole = first.element_size(), sum(p.numel() for p in self._parameters)
        for _ in range(self._threads):
            room = first.new_zeros(whole)
            places = {id(p): (p.data_ptr() - first.data_ptr()) // size for p in self._parameters}

            def own(p: Tensor, room: Tensor = room, places: dict[int, int] = places) -> Tensor:
                return room[places[id(p)] :][: p.numel()].view(p.shape)

            self._workers.append((self._make(own), room))
        self._sums = first.new_empty((SUMS, whole))

    def _gradient(self) -> Tensor:
        """Of all parameters, as one vector."""
        first = min(self._parameters, key=lambda p: p.data_ptr())
        assert first.grad is not None
        return first.grad.as_strided((self._sums.shape[1],), (1,))
