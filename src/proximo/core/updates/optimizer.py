"""What an update steps with; and Adam over one flat vector that all parameters are views of: one norm, one step."""

from collections.abc import Iterable, Mapping
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.optim.adam import adam

from proximo.core.ranks import Ranks


class Optimizer(Protocol):
    """What holds the trained parameters, or this rank's part of them, and moves them; `FlatAdam` is one."""

    parameters: list[nn.Parameter]
    """In the order in which they lie in `flat`."""
    learning_rate: float
    """Step size of the next step."""
    configured_rate: float
    """What the settings say, which bounds an adaptive rate."""

    @property
    def flat(self) -> Tensor:
        """All that is trained here, `[P]`, to be read; `load_weights` writes it."""

    @property
    def gradient(self) -> Tensor:
        """Of these, `[P]`, to be read."""

    @property
    def steps(self) -> int:
        """Steps taken."""

    def zero_grad(self) -> None:
        """Forget the gradient."""

    def sum_across(self, ranks: Ranks, numbers: Tensor) -> Tensor:
        """Have the gradient be the sum over all ranks, where it is not yet.

        Args:
            ranks: whose parts of a minibatch add up.
            numbers: `[n]`, summed with it.

        Returns:
            The numbers' sums.
        """

    def step(self, max_grad_norm: float | None = None) -> Tensor:
        """Clip the gradient of all parameters to `max_grad_norm` and take one step.

        Returns:
            The norm of the gradient before clipping, a scalar.
        """

    def load_weights(self, flat: Tensor) -> None:
        """Take over what `flat` gave."""

    def state(self, device: torch.device | str | None = None) -> dict[str, Tensor]:
        """Copies of moments and step count, each of the shape of `flat` or a scalar; empty before the first step."""

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Take over what `state` gave."""

    def begin(self, steps: int) -> None:
        """Have moments, of zeros where there are none yet, and go on counting after `steps` steps."""

    def parts(self) -> list[dict[str, Tensor]]:
        """For each parameter `weight`, `exp_avg` and `exp_avg_sq` themselves, no copies; after `begin`."""


def adam_step(
    weights: list[Tensor],
    gradients: list[Tensor],
    exp_avg: list[Tensor],
    exp_avg_sq: list[Tensor],
    steps: list[Tensor],
    learning_rate: float,
    epsilon: float,
) -> None:
    """One step of Adam (Kingma & Ba 2015, algorithm 1) in place, with its usual decay rates 0.9 and 0.999.

    Args:
        weights: are moved.
        gradients: of the same shapes.
        exp_avg: first moments, are moved.
        exp_avg_sq: second moments, are moved.
        steps: taken so far, a scalar for each of the weights; one is added.
        learning_rate: of this step.
        epsilon: added to the root of the second moment.
    """
    # torch's Adam as a function: its class adds 20 us of bookkeeping to a step that takes 10.
    adam(
        weights,
        gradients,
        exp_avg,
        exp_avg_sq,
        [],
        steps,
        fused=True,
        amsgrad=False,
        beta1=0.9,
        beta2=0.999,
        lr=learning_rate,
        weight_decay=0.0,
        eps=epsilon,
        maximize=False,
    )


class FlatAdam:
    """Adam (Kingma & Ba 2015) on the concatenation of `parameters`, with clipping by global norm.

    The parameters and their gradients become views of `flat` and `gradient`, so build it after the module is on its
    device; loading a state dict into the module afterwards is fine, moving the module is not.

    Args:
        parameters: of one type on one device.
        learning_rate: changed between steps through the attribute of that name.
        configured_rate: what the settings say, which bounds an adaptive rate; `learning_rate` if None.
        room: numbers that find room behind the gradient, to be summed over ranks with it.
        epsilon: 1e-5 (Huang et al. 2022, detail 3).

    Raises:
        ValueError: no parameters, or of several types or devices.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        learning_rate: float,
        epsilon: float = 1e-5,
        *,
        configured_rate: float | None = None,
        room: int = 0,
    ) -> None:
        self.parameters = parameters = list(parameters)
        """In the order in which they lie in `flat`."""
        if len({(p.dtype, p.device) for p in parameters}) != 1:
            raise ValueError("FlatAdam needs at least one parameter, and all of one type on one device")
        self.flat = torch.cat([p.detach().reshape(-1) for p in parameters])
        self.shared = self.flat.new_zeros(self.flat.numel() + room)
        """The gradient, and `room` behind it."""
        self.gradient = self.shared[: self.flat.numel()]
        start = 0
        for p in parameters:
            part = slice(start, start + p.numel())
            p.data = self.flat[part].view(p.shape)
            p.grad = self.gradient[part].view(p.shape)
            start = part.stop
        assert start == self.flat.numel(), "every parameter has its place in the flat vector"
        self.learning_rate = learning_rate
        """Step size of the next step."""
        self.configured_rate = learning_rate if configured_rate is None else configured_rate
        self._epsilon = epsilon
        self._moments: dict[str, Tensor] = {}

    @property
    def steps(self) -> int:
        """Steps taken."""
        return int(self._moments["step"]) if self._moments else 0

    def zero_grad(self) -> None:
        """Empty the gradient in place (the parameters' views must stay)."""
        self.gradient.zero_()

    def sum_across(self, ranks: Ranks, numbers: Tensor) -> Tensor:
        """See `Optimizer`: one sum for both, by way of the room behind the gradient."""
        start, stop = self.flat.numel(), self.flat.numel() + numbers.numel()
        behind = self.shared[start:stop]
        behind.copy_(numbers)
        ranks.sum_across_ranks(self.shared[:stop])
        return behind.clone()

    def step(self, max_grad_norm: float | None = None) -> Tensor:
        """Clip the gradient to `max_grad_norm` and take one step.

        Returns:
            The norm of the gradient before clipping, a scalar.
        """
        norm = torch.linalg.vector_norm(self.gradient)
        if max_grad_norm is not None:
            if norm.device.type == "cpu":
                if (length := float(norm)) > max_grad_norm:
                    self.gradient.mul_(max_grad_norm / (length + 1e-6))
            else:  # multiplied whether or not it clips: no branch, hence no wait for the device
                self.gradient.mul_(max_grad_norm / (norm + 1e-6).clamp(min=max_grad_norm))
        if not self._moments:
            self.begin(0)
        moments = self._moments
        adam_step(
            [self.flat],
            [self.gradient],
            [moments["exp_avg"]],
            [moments["exp_avg_sq"]],
            [moments["step"]],
            self.learning_rate,
            self._epsilon,
        )
        return norm

    def load_weights(self, flat: Tensor) -> None:
        """See `Optimizer`."""
        with torch.no_grad():
            self.flat.copy_(flat)

    def begin(self, steps: int) -> None:
        """See `Optimizer`."""
        zeros = {name: torch.zeros_like(self.gradient) for name in ("exp_avg", "exp_avg_sq") if not self._moments}
        self._moments |= zeros
        self._moments["step"] = torch.full((), float(steps), dtype=torch.float32, device=self.flat.device)

    def parts(self) -> list[dict[str, Tensor]]:
        """See `Optimizer`."""
        whole = {"weight": self.flat, **{name: self._moments[name] for name in ("exp_avg", "exp_avg_sq")}}
        sizes = [p.numel() for p in self.parameters]
        columns = {name: x.split(sizes) for name, x in whole.items()}
        return [
            {name: column[i].view(p.shape) for name, column in columns.items()} for i, p in enumerate(self.parameters)
        ]

    def state(self, device: torch.device | str | None = None) -> dict[str, Tensor]:
        """Copies of moments and step count, for a checkpoint; on their own device if none is given. Empty before the
        first step.
        """
        return {name: value.to(device or value.device, copy=True) for name, value in self._moments.items()}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Take over what `state` gave.

        Raises:
            ValueError: it belongs to a network of another size.
        """
        if state and state["exp_avg"].shape != self.flat.shape:
            raise ValueError(
                f"optimiser state of {state['exp_avg'].numel()} parameters, network has {self.flat.numel()}"
            )
        self._moments = {name: value.to(self.flat.device, copy=True) for name, value in state.items()}
