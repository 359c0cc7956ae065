"""What a world makes of a kept update, so that it can be done again; and what it is asked to say of a sample."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from proximo.core.batch import Batch
from proximo.core.optimizer import FlatAdam
from proximo.core.settings import UpdateSettings
from proximo.core.update import Gradient, Policy

Where = Callable[[tuple[int, ...]], Mapping[str, Any]]
"""Says of a sample's index in the batch where it comes from and what it was; JSON."""


@dataclass(frozen=True)
class Learner:
    """Everything that `core.update` takes, as it was before the update."""

    policy: Policy
    optimizer: FlatAdam
    module: nn.Module
    """Names the parameters that the optimiser holds."""
    batch: Batch
    settings: UpdateSettings
    progress: float
    generator: torch.Generator
    gradient: Gradient
    where: Where
    reestimate: Callable[[Batch], Batch] | None = None
    tolerance: float | None = None
    reward_scale: float = 0.0

    def named_slices(self) -> list[tuple[str, slice]]:
        """Names of the trained parameters, and where each lies in the flat vector; in its order."""
        flat, size = self.optimizer.flat, self.optimizer.flat.element_size()
        named = [(name, p) for name, p in self.module.named_parameters() if p.requires_grad]
        places = [(name, (p.data_ptr() - flat.data_ptr()) // size, p.numel()) for name, p in named]
        slices = [(name, slice(start, start + length)) for name, start, length in places]
        return sorted(slices, key=lambda item: item[1].start)

    def first_not_finite(self, flat: Tensor) -> str | None:
        """Name of the first parameter whose part of `flat` is not finite."""
        if bool(torch.isfinite(flat).all()):
            return None
        return next(name for name, part in self.named_slices() if not bool(torch.isfinite(flat[part]).all()))
