"""Going back to before an iteration that failed or was given up."""

from collections.abc import Mapping

import torch
from torch import Tensor

from proximo.core.optimizer import FlatAdam


class Undo:
    """Weights, optimiser and generators as they were: 12 bytes of main memory for each trained float32.

    Args:
        optimizer: holds everything that an update moves.
        generators: what an iteration draws from.
        copies: whether weights and optimiser are copied; without, only what came before the first step is undone.
    """

    def __init__(self, optimizer: FlatAdam, generators: Mapping[str, torch.Generator], *, copies: bool = True) -> None:
        self._optimizer, self._generators, self._copies = optimizer, dict(generators), copies
        self._weights: Tensor | None = None
        self._states: dict[str, Tensor] | None = None

    def remember(self) -> None:
        """Take a copy; the one before is forgotten."""
        self._weights = None
        self._moments: dict[str, Tensor] = {}
        if self._copies:
            self._weights = self._optimizer.flat.detach().to("cpu", copy=True)
            self._moments = self._optimizer.state("cpu")
        self._steps = self._optimizer.steps
        self._learning_rate = self._optimizer.learning_rate
        self._states = {name: generator.get_state() for name, generator in self._generators.items()}

    def undo(self) -> bool:
        """Put the copy back.

        Returns:
            False if steps were taken since and there is no copy: then nothing is put back. True, with nothing to do,
            before the first `remember`.
        """
        if self._states is None:
            return True
        if self._weights is not None:
            with torch.no_grad():
                self._optimizer.flat.copy_(self._weights)
            self._optimizer.load_state(self._moments)
        elif self._optimizer.steps != self._steps:
            return False
        self._optimizer.learning_rate = self._learning_rate
        for name, generator in self._generators.items():
            generator.set_state(self._states[name])
        return True
