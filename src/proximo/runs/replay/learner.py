"""What a world makes of a kept update, so that it can be done again; and what it is asked to say of a sample."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from proximo.core.updates.update import UpdateReport, UpdateTask

Where = Callable[[tuple[int, ...]], Mapping[str, Any]]
"""Says of a sample's index in the batch where it comes from and what it was; JSON."""


class Updates(Protocol):
    """An algorithm, as far as a replay asks it."""

    def update(self, task: UpdateTask) -> UpdateReport:
        """Improve the policy on one batch."""


@dataclass(frozen=True)
class Learner:
    """An update, as it was before it was done."""

    task: UpdateTask
    algorithm: Updates
    module: nn.Module
    """Names the parameters that the optimiser holds."""
    at_a_time: int
    """Samples that go through the policy at once, to save memory."""
    where: Where

    def named_slices(self) -> list[tuple[str, slice]]:
        """Names of the trained parameters, and where each lies in the flat vector; in its order."""
        flat, size = self.task.optimizer.flat, self.task.optimizer.flat.element_size()
        named = [(name, p) for name, p in self.module.named_parameters() if p.requires_grad]
        places = [(name, (p.data_ptr() - flat.data_ptr()) // size, p.numel()) for name, p in named]
        slices = [(name, slice(start, start + length)) for name, start, length in places]
        return sorted(slices, key=lambda item: item[1].start)

    def first_not_finite(self, flat: Tensor) -> str | None:
        """Name of the first parameter whose part of `flat` is not finite."""
        if bool(torch.isfinite(flat).all()):
            return None
        return next(name for name, part in self.named_slices() if not bool(torch.isfinite(flat[part]).all()))
