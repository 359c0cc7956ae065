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
        return self.kind in ("state", "gsde")

    @property
    def outputs(self) -> int:
        """Numbers that the network's head emits for it, behind those of the actions."""
        return self.columns if self.kind == "state" else 0

    @property
    def bounds(self) -> tuple[float, float]:
        """Of the learnt numbers."""
        low, high = self.range
        return (math.exp(low), math.exp(high)) if self.kind == "scalar" else (low, high)

    def numbers(self, width: int) -> Tensor:
        """What is learnt, or stands (`fixed`), at the start: `[columns]`, one for all (`shared`), none for a network
        that gives them, or `[width + 1, columns]` (`gsde`, for the `width` numbers of the last hidden layer).
        """
        if self.kind == "state":
            return torch.zeros(0)
        start = torch.tensor(self._start, dtype=torch.get_default_dtype())
        if self.kind == "gsde":
            return start.expand(width + 1, self.columns).clone()
        return start.exp() if self.kind == "scalar" else start[:1] if self.kind == "shared" else start

    def log_std(self, numbers: Tensor) -> Tensor:
        """`[columns]`, from what is learnt."""
        held = numbers.clamp(*self.bounds)
        return (held.log() if self.kind == "scalar" else held).expand(self.columns)

    def log_std_of_state(self, raw: Tensor, numbers: Tensor) -> Tensor:
        """`[..., columns]`, of a state.

        Args:
            raw: what the network gives behind the outputs of the actions.
            numbers: what is learnt.
        """
        if self.kind == "state":
            return self._bounded(raw)
        std = numbers.clamp(*self.bounds).exp()
        return 0.5 * (basis(raw).square() @ std.square()).log()

    def draw(self, numbers: Tensor, count: int, generator: torch.Generator | None) -> Tensor | None:
        """For `gsde`: what turns `basis` into noise, `[count, width + 1, columns]`, in as many environments."""
        if self.kind != "gsde" or not self.columns:
            return None
        std = numbers.detach().clamp(*self.bounds).exp()
        return std * torch.randn(count, *std.shape, generator=generator, dtype=std.dtype, device=std.device)

    def _bounded(self, raw: Tensor) -> Tensor:
        """`[..., columns]`, from what the network emits: `log_std` where that is 0, and x / (1 + |x|) between the
        bounds. A clamp would have no slope beyond them, and a sigmoid soon none in float32: no step could bring a
        network back that was pushed there.
        """
        low, high = self.range
        middle, half = 0.5 * (low + high), 0.5 * (high - low)
        starts = [(x - middle) / half for x in self._start]
        offsets = [x / (1.0 - abs(x)) for x in starts]
        # One number for all needs no way to the device.
        offset = offsets[0] if len({*offsets}) == 1 else torch.tensor(offsets).to(raw)
        return middle + half * functional.softsign(raw / half + offset)


def basis(hidden: Tensor) -> Tensor:
    """What the noise of `gsde` is linear in, `[..., width + 1]`: the last hidden layer and a 1, over √(width + 1).

    So deviations are about `log_std` where the layer is about 1, however wide it is, and never 0 (the 1 is not in
    Raffin et al. 2021, arXiv 2005.05719, whose code adds 1e-6 to the variance instead).
    """
    return functional.pad(hidden, (0, 1), value=1.0) / math.sqrt(hidden.shape[-1] + 1)
