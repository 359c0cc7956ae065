"""The deviation of Gaussian actions: what decides it (`network.noise`), and within which bounds it stays."""

import math

import torch
from torch import Tensor
from torch.nn import functional

from proximo.control.config import NetworkSettings
from proximo.errors import UserError


class Noise:
    """Turns learnt numbers, or a network's outputs, into log standard deviations.

    Args:
        settings: `noise`, `log_std` and `log_std_range`.
        columns: continuous columns of an action.

    Raises:
        UserError: `log_std` has another number of entries.
    """

    def __init__(self, settings: NetworkSettings, columns: int) -> None:
        start = settings.log_std if isinstance(settings.log_std, tuple) else (settings.log_std,) * columns
        if len(start) != columns:
            raise UserError(
                f"network.log_std has {len(start)} numbers, and the action has {columns} continuous columns: give one "
                "for each, or a single one"
            )
        self.kind, self.columns, self.range = settings.noise, columns, settings.log_std_range
        self._start = start

    @property
    def of_state(self) -> bool:
        """Whether each state has deviations of its own, which the network gives."""
        return self.kind == "state"

    @property
    def outputs(self) -> int:
        """Numbers that the network emits for it, behind those of the actions."""
        return self.columns if self.of_state else 0

    @property
    def bounds(self) -> tuple[float, float]:
        """Of the learnt numbers."""
        low, high = self.range
        return (math.exp(low), math.exp(high)) if self.kind == "scalar" else (low, high)

    def numbers(self) -> Tensor:
        """What is learnt, or stands (`fixed`), at the start: `[columns]`, or one for all (`shared`); none for a
        network that gives them.
        """
        if self.of_state:
            return torch.zeros(0)
        start = torch.tensor(self._start, dtype=torch.get_default_dtype())
        return start.exp() if self.kind == "scalar" else start[:1] if self.kind == "shared" else start

    def log_std(self, numbers: Tensor) -> Tensor:
        """`[columns]`, from what is learnt."""
        held = numbers.clamp(*self.bounds)
        return (held.log() if self.kind == "scalar" else held).expand(self.columns)

    def log_std_of_state(self, raw: Tensor) -> Tensor:
        """`[..., columns]`, from what the network emits: `log_std` where that is 0, and x / (1 + |x|) between the
        bounds. A clamp would have no slope beyond them, and a sigmoid soon none in float32: no step could bring a
        network back that was pushed there.
        """
        low, high = self.range
        middle, half = 0.5 * (low + high), 0.5 * (high - low)
        start = (torch.tensor(self._start).to(raw) - middle) / half
        return middle + half * functional.softsign(raw / half + start / (1.0 - start.abs()))
