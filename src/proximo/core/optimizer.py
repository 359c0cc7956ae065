"""Adam over one flat vector that all parameters are views of: one norm, one step, however many layers."""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn


class FlatAdam:
    """Adam (Kingma & Ba 2015) on the concatenation of `parameters`, with clipping by global norm.

    The parameters and their gradients become views of `flat` and `flat.grad`, so build it after the module is on its
    device; loading a state dict into the module afterwards is fine, moving the module is not.

    Args:
        parameters: of one type on one device.
        learning_rate: changed between steps through the attribute of that name.
        epsilon: 1e-5 (Huang et al. 2022, detail 3).

    Raises:
        ValueError: no parameters, or of several types or devices.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], learning_rate: float, epsilon: float = 1e-5) -> None:
        parameters = list(parameters)
        if len({(p.dtype, p.device) for p in parameters}) != 1:
            raise ValueError("FlatAdam needs at least one parameter, and all of one type on one device")
        self.flat = torch.cat([p.detach().reshape(-1) for p in parameters]).requires_grad_()
        self.gradient: Tensor = torch.zeros_like(self.flat, requires_grad=False)
        self.flat.grad = self.gradient
        start = 0
        for p in parameters:
            part = slice(start, start + p.numel())
            p.data = self.flat.detach()[part].view(p.shape)
            p.grad = self.gradient[part].view(p.shape)
            start = part.stop
        assert start == self.flat.numel(), "every parameter has its place in the flat vector"
        self._adam = torch.optim.Adam([self.flat], lr=learning_rate, eps=epsilon, fused=True)

    @property
    def learning_rate(self) -> float:
        """Step size of the next step."""
        return float(self._adam.param_groups[0]["lr"])

    @learning_rate.setter
    def learning_rate(self, value: float) -> None:
        self._adam.param_groups[0]["lr"] = value

    def zero_grad(self) -> None:
        """Empty the gradient in place (the parameters' views must stay)."""
        self.gradient.zero_()

    def step(self, max_grad_norm: float | None = None) -> Tensor:
        """Clip the gradient to `max_grad_norm` and take one step.

        Returns:
            The norm of the gradient before clipping, a scalar.
        """
        norm = torch.linalg.vector_norm(self.gradient)
        if max_grad_norm is not None:
            # Multiplied whether or not it clips: no branch, hence no wait for the device.
            self.gradient.mul_((max_grad_norm / (norm + 1e-6)).clamp(max=1.0))
        self._adam.step()
        return norm

    def state(self) -> dict[str, Tensor]:
        """Moments and step count, for a checkpoint. Empty moments before the first step."""
        state = self._adam.state[self.flat]
        return {name: torch.as_tensor(value).clone() for name, value in state.items()} if state else {}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Take over what `state` gave.

        Raises:
            ValueError: it belongs to a network of another size.
        """
        if not state:
            self._adam.state.clear()
            return
        if state["exp_avg"].shape != self.flat.shape:
            raise ValueError(
                f"optimiser state of {state['exp_avg'].numel()} parameters, network has {self.flat.numel()}"
            )
        device = self.flat.device
        self._adam.state[self.flat] = {
            "step": state["step"].to(device, torch.float32, copy=True),
            "exp_avg": state["exp_avg"].to(device, copy=True),
            "exp_avg_sq": state["exp_avg_sq"].to(device, copy=True),
        }
