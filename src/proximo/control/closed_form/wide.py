"""The same two networks by torch's operations, for parts of large minibatches that threads share.

A thread that ends a call of NumPy's or torch's waits for Python's lock, so few long calls are worth more here than
many that stay in the cache: two threads are 1.8 times as fast as one.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from proximo.control.closed_form.networks import Observed, TwinMLP, gradient

_ATEN = torch.ops.aten
_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "tanh": torch.tanh_,
    "relu": torch.relu_,
    "elu": nn.functional.elu_,
}
# Errors behind an activation times its slope, in place, by the activation's own output y.
_BENT: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "tanh": lambda error, y: _ATEN.tanh_backward.grad_input(error, y, grad_input=error),
    "relu": lambda error, y: _ATEN.threshold_backward.grad_input(error, y, 0, grad_input=error),
    "elu": lambda error, y: _ATEN.elu_backward.grad_input(error, 1.0, 1.0, 1.0, True, y, grad_input=error),
}


class WideTwinMLP(TwinMLP):
    """See `TwinMLP`, whose arguments, room and heads it has."""

    def __init__(
        self,
        actor: Sequence[nn.Linear],
        critic: Sequence[nn.Linear],
        activation: str,
        own: Callable[[Tensor], Tensor] = gradient,
    ) -> None:
        super().__init__(actor, critic, activation, own)
        self._activate, self._bent = _ACTIVATIONS[activation], _BENT[activation]
        layers = list(zip(self.weights, self.biases, self.gradients, strict=True))
        self._layers = [[_tensors(w[k], b[k], dw[k], db[k]) for w, b, (dw, db) in layers] for k in (0, 1)]
        """Of the actor and of the critic: weight, bias and their gradients."""

    def forward(self, x: Observed) -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
        """See `TwinMLP.forward`."""
        hidden, _ = self._buffers(x[0].shape[1])
        tops = [torch.from_numpy(seen) for seen in x]
        for i, values in enumerate(hidden):
            out = torch.from_numpy(values)
            for layers, top, room in zip(self._layers, tops, out, strict=True):
                torch.addmm(layers[i][1], layers[i][0], top, out=room)
            tops = list(self._activate(out))
        actor, critic = (head.weight @ top.numpy() + head.bias for head, top in zip(self.heads, tops, strict=True))
        return hidden, actor, critic[0]

    def _one(self, which: int, x: np.ndarray) -> np.ndarray:
        top = torch.from_numpy(x)
        for weight, bias, *_ in self._layers[which]:
            top = self._activate(torch.addmm(bias, weight, top))
        return self.heads[which].weight @ top.numpy() + self.heads[which].bias

    def _back(self, x: Observed, hidden: list[np.ndarray], room: list[np.ndarray]) -> None:
        """See `TwinMLP._back`."""
        below = [[torch.from_numpy(seen) for seen in x], *(list(torch.from_numpy(values)) for values in hidden)]
        for i in range(len(hidden) - 1, -1, -1):
            errors = self._bent(torch.from_numpy(room[i]), torch.from_numpy(hidden[i]))
            # Before the errors below take the place of the values that are read here.
            for layers, error, values in zip(self._layers, errors, below[i], strict=True):
                _, _, weight_gradient, bias_gradient = layers[i]
                weight_gradient.addmm_(error, values.T)
                bias_gradient += error.sum(1, keepdim=True)
            if i:
                for layers, error, out in zip(self._layers, errors, torch.from_numpy(room[i - 1]), strict=True):
                    torch.mm(layers[i][0].T, error, out=out)


def _tensors(*arrays: np.ndarray) -> tuple[Tensor, ...]:
    """That share their memory; a bias's gradient as a column, like the bias."""
    return tuple(torch.from_numpy(x if x.ndim == 2 else x[:, None]) for x in arrays)
