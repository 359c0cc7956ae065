"""Going back to before an iteration that failed or was given up."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from proximo.core.updates.optimizer import Optimizer


@dataclass(frozen=True)
class Snapshot:
    """What an update moves, on the CPU: 12 bytes for each trained float32."""

    weights: Tensor
    """All that is trained, `[P]`, in the optimiser's order."""
    moments: Mapping[str, Tensor]
    learning_rate: float
    generators: Mapping[str, Tensor]
    """Their states, by name."""
    numbers: Mapping[str, float] = field(default_factory=dict)
    """What the algorithm keeps from one update to the next."""

    @classmethod
    def of(cls, optimizer: Optimizer, generators: Mapping[str, Tensor], numbers: Mapping[str, float]) -> "Snapshot":
        """A copy of what is; the generators' states are taken as they come."""
        return cls(
            optimizer.flat.detach().to("cpu", copy=True),
            optimizer.state("cpu"),
            optimizer.learning_rate,
            dict(generators),
            dict(numbers),
        )

    def put_back(self, optimizer: Optimizer, generators: Mapping[str, torch.Generator]) -> None:
        """Make it what is."""
        optimizer.load_weights(self.weights)
        optimizer.load_state(self.moments)
        optimizer.learning_rate = self.learning_rate
        for name, generator in generators.items():
            generator.set_state(self.generators[name])


class Undo:
    """Weights, optimiser and generators as they were.

    Args:
        optimizer: holds everything that an update moves.
        generators: what an iteration draws from.
        numbers: what the algorithm keeps from one update to the next; written to.
        copies: whether weights and optimiser are copied; without, only what came before the first step is undone.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        generators: Mapping[str, torch.Generator],
        numbers: dict[str, float],
        *,
        copies: bool = True,
    ) -> None:
        self._optimizer, self._generators, self._copies = optimizer, dict(generators), copies
        self._numbers, self._numbers_before = numbers, dict(numbers)
        self._states: dict[str, Tensor] | None = None
        self.snapshot: Snapshot | None = None
        """What `undo` goes back to; never written to, so others may hold on to it. None without copies."""

    def remember(self) -> None:
        """Take a copy; the one before is forgotten."""
        self.snapshot = None
        self._steps, self._learning_rate = self._optimizer.steps, self._optimizer.learning_rate
        self._states = {name: generator.get_state() for name, generator in self._generators.items()}
        self._numbers_before = dict(self._numbers)
        if self._copies:
            self.snapshot = Snapshot.of(self._optimizer, self._states, self._numbers)

    def undo(self) -> bool:
        """Put the copy back.

        Returns:
            False if steps were taken since and there is no copy: then nothing is put back. True, with nothing to do,
            before the first `remember`.
        """
        if self._states is None:
            return True
        if self.snapshot is not None:
            self.snapshot.put_back(self._optimizer, self._generators)
            self._put_numbers_back()
            return True
        if self._optimizer.steps != self._steps:
            return False
        self._optimizer.learning_rate = self._learning_rate
        for name, generator in self._generators.items():
            generator.set_state(self._states[name])
        self._put_numbers_back()
        return True

    def _put_numbers_back(self) -> None:
        self._numbers.clear()
        self._numbers.update(self._numbers_before)
