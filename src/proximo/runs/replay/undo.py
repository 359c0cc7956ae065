"""Going back to before an iteration that failed or was given up."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from proximo.core.optimizer import FlatAdam


@dataclass(frozen=True)
class Snapshot:
    """What an update moves, on the CPU: 12 bytes for each trained float32."""

    weights: Tensor
    """All that is trained, `[P]`, in the optimiser's order."""
    moments: Mapping[str, Tensor]
    learning_rate: float
    generators: Mapping[str, Tensor]
    """Their states, by name."""

    @classmethod
    def of(cls, optimizer: FlatAdam, generators: Mapping[str, Tensor]) -> "Snapshot":
        """A copy of what is; the generators' states are taken as they come."""
        return cls(
            optimizer.flat.detach().to("cpu", copy=True),
            optimizer.state("cpu"),
            optimizer.learning_rate,
            dict(generators),
        )

    def put_back(self, optimizer: FlatAdam, generators: Mapping[str, torch.Generator]) -> None:
        """Make it what is."""
        with torch.no_grad():
            optimizer.flat.copy_(self.weights)
        optimizer.load_state(self.moments)
        optimizer.learning_rate = self.learning_rate
        for name, generator in generators.items():
            generator.set_state(self.generators[name])


class Undo:
    """Weights, optimiser and generators as they were.

    Args:
        optimizer: holds everything that an update moves.
        generators: what an iteration draws from.
        copies: whether weights and optimiser are copied; without, only what came before the first step is undone.
    """

    def __init__(self, optimizer: FlatAdam, generators: Mapping[str, torch.Generator], *, copies: bool = True) -> None:
        self._optimizer, self._generators, self._copies = optimizer, dict(generators), copies
        self._states: dict[str, Tensor] | None = None
        self.snapshot: Snapshot | None = None
        """What `undo` goes back to; never written to, so others may hold on to it. None without copies."""

    def remember(self) -> None:
        """Take a copy; the one before is forgotten."""
        self.snapshot = None
        self._steps, self._learning_rate = self._optimizer.steps, self._optimizer.learning_rate
        self._states = {name: generator.get_state() for name, generator in self._generators.items()}
        if self._copies:
            self.snapshot = Snapshot.of(self._optimizer, self._states)

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
            return True
        if self._optimizer.steps != self._steps:
            return False
        self._optimizer.learning_rate = self._learning_rate
        for name, generator in self._generators.items():
            generator.set_state(self._states[name])
        return True
