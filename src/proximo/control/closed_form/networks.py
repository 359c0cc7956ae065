"""Forward and backward through an actor and a critic of one shape, side by side, in NumPy."""

from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn


def _elu(x: np.ndarray, out: np.ndarray) -> np.ndarray:
    return np.maximum(x, np.expm1(np.minimum(x, 0.0)), out=out)


def _tanh_slope(y: np.ndarray, out: np.ndarray) -> np.ndarray:
    return np.subtract(1.0, np.multiply(y, y, out=out), out=out)


def _elu_slope(y: np.ndarray, out: np.ndarray) -> np.ndarray:
    return np.add(np.minimum(y, 0.0, out=out), 1.0, out=out)


ACTIVATIONS: dict[str, Callable[..., np.ndarray]] = {
    "tanh": np.tanh,
    "relu": lambda x, out: np.maximum(x, 0.0, out=out),
    "elu": _elu,
}
# Slopes in terms of the activation's own output y, which is at hand.
SLOPES: dict[str, Callable[..., np.ndarray]] = {
    "tanh": _tanh_slope,
    "relu": lambda y, out: np.greater(y, 0.0, out=out, casting="unsafe"),
    "elu": _elu_slope,
}


Observed = tuple[np.ndarray, np.ndarray]
"""What the actor reads and what the critic reads, each `[D, B]`; the same array twice where they see the same."""
_Pair = np.ndarray | tuple[np.ndarray, np.ndarray]


class TwinMLP:
    """Two MLPs whose hidden layers are one array each; they differ in their heads, and may in what they read.

    The batch is the last axis: a bias, a sum over actions and a mean over the batch then run along contiguous memory,
    and both networks' hidden values `[2, width, B]` go through one activation.

    Args:
        actor: linear layers, the head last; views of a vector in which each layer of the critic follows the actor's.
        critic: the same widths, but for the head and for what the first layer reads.
        activation: between the layers.

    Raises:
        ValueError: the layers do not lie side by side.
    """

    def __init__(self, actor: Sequence[nn.Linear], critic: Sequence[nn.Linear], activation: str) -> None:
        self.activate, self.slope = ACTIVATIONS[activation], SLOPES[activation]
        pairs = list(zip(actor[:-1], critic[:-1], strict=True))
        self.weights: list[_Pair] = [_pair(a.weight, c.weight) for a, c in pairs]
        self.biases = [_stacked(a.bias, c.bias)[..., None] for a, c in pairs]
        self.gradients = [
            (_pair(gradient(a.weight), gradient(c.weight)), _stacked(gradient(a.bias), gradient(c.bias)))
            for a, c in pairs
        ]
        self.heads = [_Head(actor[-1]), _Head(critic[-1])]
        self.dtype = self.heads[0].weight.dtype
        self._room: dict[int, tuple[list[np.ndarray], list[np.ndarray]]] = {}

    def forward(self, x: Observed) -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
        """What both read, each `[D, B]` -> the hidden values, each `[2, width, B]`, reused by the next call with as
        many samples; the actor's output `[outputs, B]` and the critic's `[B]`.
        """
        batch = x[0].shape[1]
        hidden, _ = self._buffers(batch)
        tops: Observed | np.ndarray = x
        for weight, bias, values in zip(self.weights, self.biases, hidden, strict=True):
            if isinstance(tops, np.ndarray):
                np.matmul(weight, tops, out=values)
            elif isinstance(weight, np.ndarray) and x[0] is x[1]:  # both read the same: one product
                np.matmul(weight.reshape(-1, weight.shape[-1]), x[0], out=values.reshape(-1, batch))
            else:
                for which in (0, 1):
                    np.matmul(weight[which], x[which], out=values[which])
            np.add(values, bias, out=values)
            tops = self.activate(values, out=values)
        actor, critic = (head.weight @ top + head.bias for head, top in zip(self.heads, tops, strict=True))
        return hidden, actor, critic[0]

    def actor(self, x: np.ndarray) -> np.ndarray:
        """`[D, B]` -> the actor's output `[outputs, B]`, without the critic."""
        return self._one(0, x)

    def critic(self, x: np.ndarray) -> np.ndarray:
        """`[D, B]` -> the critic's output `[1, B]`, without the actor."""
        return self._one(1, x)

    def _one(self, which: int, x: np.ndarray) -> np.ndarray:
        for weight, bias in zip(self.weights, self.biases, strict=True):
            x = weight[which] @ x
            x += bias[which]
            x = self.activate(x, out=x)
        return self.heads[which].weight @ x + self.heads[which].bias

    def backward(self, x: Observed, hidden: list[np.ndarray], errors: tuple[np.ndarray, np.ndarray]) -> None:
        """Add the gradient.

        Args:
            x: as given to `forward`.
            hidden: what it returned; overwritten.
            errors: dLoss/dOutput of the actor `[outputs, B]` and of the critic `[1, B]`.
        """
        tops = hidden[-1] if hidden else x
        for head, error, top in zip(self.heads, errors, tops, strict=True):
            head.weight_gradient += error @ top.T
            head.bias_gradient += error.sum(1)
        if not hidden:
            return
        batch = x[0].shape[1]
        _, room = self._buffers(batch)
        ones = np.ones(batch, self.dtype)
        error = room[-1]
        np.matmul(self.heads[0].weight.T, errors[0], out=error[0])
        # For one output (the critic's head) the product is an outer one, which BLAS is slow at.
        np.multiply(self.heads[1].weight.T, errors[1], out=error[1])
        for i in range(len(hidden) - 1, -1, -1):
            weight_gradient, bias_gradient = self.gradients[i]
            error *= self.slope(hidden[i], out=hidden[i])  # nobody reads these values any more
            bias_gradient += error @ ones  # a third of the time of sum(-1)
            if i:
                weight_gradient += error @ hidden[i - 1].transpose(0, 2, 1)
                weight = self.weights[i]
                assert isinstance(weight, np.ndarray)  # as all but the first
                error = np.matmul(weight.transpose(0, 2, 1), error, out=room[i - 1])
            elif isinstance(weight_gradient, np.ndarray) and x[0] is x[1]:
                both = weight_gradient.reshape(-1, len(x[0]))
                both += error.reshape(len(both), -1) @ x[0].T
            else:
                for which in (0, 1):
                    weight_gradient[which][:] += error[which] @ x[which].T

    def _buffers(self, batch: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Room for the hidden values and for their errors: a rollout, a minibatch and few others are ever asked for.

        Going back, an error takes the place of the hidden values above it, which nobody reads any more: the less memory
        is touched, the more of it stays in the cache.
        """
        if batch not in self._room:
            if len(self._room) > 8:
                self._room.clear()
            hidden = [np.empty((2, len(weight[0]), batch), self.dtype) for weight in self.weights]
            errors = [b if a.shape == b.shape else np.empty_like(a) for a, b in pairwise(hidden)]
            self._room[batch] = hidden, [*errors, *(np.empty_like(top) for top in hidden[-1:])]
        return self._room[batch]


class _Head:
    """A last layer and its gradients, as views."""

    def __init__(self, layer: nn.Linear) -> None:
        self.weight, self.bias = layer.weight.detach().numpy(), layer.bias.detach().numpy()[:, None]
        self.weight_gradient, self.bias_gradient = gradient(layer.weight).numpy(), gradient(layer.bias).numpy()


def gradient(parameter: Tensor) -> Tensor:
    """The parameter's gradient, made if it has none yet."""
    if parameter.grad is None:
        parameter.grad = torch.zeros_like(parameter)
    return parameter.grad


def _pair(first: Tensor, second: Tensor) -> _Pair:
    """Of one layer in both networks; two arrays where they read observations of different sizes."""
    if first.shape == second.shape:
        return _stacked(first, second)
    return first.detach().numpy(), second.detach().numpy()


def _stacked(first: Tensor, second: Tensor) -> np.ndarray:
    """Two tensors of one shape that follow each other in memory, as one array `[2, ...]` that shares it."""
    first = first.detach()
    if second.data_ptr() != first.data_ptr() + first.numel() * first.element_size() or first.shape != second.shape:
        raise ValueError("the layers of actor and critic must lie side by side: FlatAdam(policy.parameters_by_layer())")
    return first.as_strided((2, *first.shape), (first.numel(), *first.stride())).numpy()
