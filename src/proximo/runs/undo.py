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
    """

    def __init__(self, optimizer: FlatAdam, generators: Mapping[str, torch.Generator]) -> None:
        self._optimizer, self._generators = optimizer, dict(generators)
        self._weights: Tensor | None = None

    def remember(self) -> None:
        """Take a copy; the one before is forgotten."""
        self._weights = None
        self._moments: dict[str, Tensor] = {}
        self._weights = self._optimizer.flat.detach().to("cpu", copy=True)
        self._moments = {name: x.cpu() for name, x in self._optimizer.state().items()}
        self._learning_rate = self._optimizer.learning_rate
        self._states = {name: generator.get_state() for name, generator in self._generators.items()}

    def undo(self) -> None:
        """Put the copy back; does nothing before the first `remember`."""
        if self._weights is None:
            return
        with torch.no_grad():
            self._optimizer.flat.copy_(self._weights)
        self._optimizer.load_state(self._moments)
        self._optimizer.learning_rate = self._learning_rate
        for name, generator in self._generators.items():
            generator.set_state(self._states[name])
