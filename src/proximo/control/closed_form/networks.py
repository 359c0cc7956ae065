"""Forward and backward through an actor and a critic of one shape, side by side, in NumPy."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn


def _elu(x: np.ndarray) -> None:
    # By torch: without AVX-512, NumPy's expm1 takes 10 ns a number, four times as long as all of this. With one thread
    # of torch's own, as trainings have: a slab that it shares out has other last bits where it is cut.
    torch.nn.functional.elu_(torch.from_numpy(x))


def _elu_back(errors: np.ndarray, y: np.ndarray) -> None:
    there = torch.from_numpy(errors)
    torch.ops.aten.elu_backward.grad_input(there, 1.0, 1.0, 1.0, True, torch.from_numpy(y), grad_input=there)


def _tanh_back(errors: np.ndarray, y: np.ndarray) -> None:
    errors *= np.subtract(1.0, np.multiply(y, y, out=y), out=y)


def _relu_back(errors: np.ndarray, y: np.ndarray) -> None:
    errors *= np.greater(y, 0.0, out=y, casting="unsafe")


ACTIVATE: dict[str, Callable[[np.ndarray], object]] = {
    "tanh": lambda x: np.tanh(x, out=x),
    "relu": lambda x: np.maximum(x, 0.0, out=x),
    "elu": _elu,
}
"""In place."""
BACK: dict[str, Callable[[np.ndarray, np.ndarray], None]] = {"tanh": _tanh_back, "relu": _relu_back, "elu": _elu_back}
"""Multiply errors by the activation's slope, in terms of its own output y: it is at hand, and overwritten."""


Observed = tuple[np.ndarray, np.ndarray]
"""What the actor reads and what the critic reads, each `[D, B]`; the same array twice where they see the same."""
_Pair = np.ndarray | tuple[np.ndarray, np.ndarray]


def gradient(parameter: Tensor) -> Tensor:
    """The parameter's gradient, made if it has none yet."""
    if parameter.grad is None:
        parameter.grad = torch.zeros_like(parameter)
    return parameter.grad


@dataclass(frozen=True)
class Products:
    """Of matrices, `[..., n, k]` by `[..., k, m]`."""

    of: Callable[..., np.ndarray]
    """As `numpy.matmul`."""
    onto: Callable[[np.ndarray, np.ndarray, np.ndarray], object]
    """Adds the product of the second and the third to the first."""


def _torch_of(a: np.ndarray, b: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    given = None if out is None else torch.from_numpy(out)
    product: np.ndarray = torch.matmul(torch.from_numpy(a), torch.from_numpy(b), out=given).numpy()
    return product


def _torch_onto(total: np.ndarray, a: np.ndarray, b: np.ndarray) -> object:
    there = torch.from_numpy(total)
    return (there.baddbmm_ if total.ndim == 3 else there.addmm_)(torch.from_numpy(a), torch.from_numpy(b))


BY_NUMPY = Products(np.matmul, lambda total, a, b: np.add(total, a @ b, out=total))
BY_TORCH = Products(_torch_of, _torch_onto)
"""Up to a fifth faster where products are worth the longer call, and sums need no room for the product."""


class TwinMLP:
    """Two MLPs whose hidden layers are one array each; they differ in their heads, and may in what they read.

    The batch is the last axis: a bias, a sum over actions and a mean over the batch then run along contiguous memory,
    and both networks' hidden values `[2, width, B]` go through one activation.

    Args:
        actor: linear layers, the head last; views of a vector in which each layer of the critic follows the actor's.
        critic: the same widths, but for the head and for what the first layer reads.
        activation: between the layers.
        own: where a parameter's gradient is added to; to its own if not given.
        products: of matrices.

    Raises:
        ValueError: the layers do not lie side by side.
    """

    def __init__(
        self,
        actor: Sequence[nn.Linear],
        critic: Sequence[nn.Linear],
        activation: str,
        own: Callable[[Tensor], Tensor] = gradient,
        products: Products = BY_NUMPY,
    ) -> None:
        self._product, self._onto = products.of, products.onto
        self.activate, self.back = ACTIVATE[activation], BACK[activation]
        pairs = list(zip(actor[:-1], critic[:-1], strict=True))
        self.weights: list[_Pair] = [_pair(a.weight, c.weight) for a, c in pairs]
        self.biases = [_stacked(a.bias, c.bias)[..., None] for a, c in pairs]
        self.gradients = [(_pair(own(a.weight), own(c.weight)), _stacked(own(a.bias), own(c.bias))) for a, c in pairs]
        self.heads = [_Head(actor[-1], own), _Head(critic[-1], own)]
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
                self._product(weight, tops, out=values)
            elif isinstance(weight, np.ndarray) and x[0] is x[1]:  # both read the same: one product
                self._product(weight.reshape(-1, weight.shape[-1]), x[0], out=values.reshape(-1, batch))
            else:
                for which in (0, 1):
                    self._product(weight[which], x[which], out=values[which])
            flat, shift = values.reshape(-1, batch), bias.reshape(-1, 1)
            for rows in _slabs(flat):
                self.activate(np.add(flat[rows], shift[rows], out=flat[rows]))
            tops = values
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
            x = self._product(weight[which], x)
            for rows in _slabs(x):
                self.activate(np.add(x[rows], bias[which][rows], out=x[rows]))
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
            errs, values, biases = (
                a.reshape(-1, n) for a, n in ((error, batch), (hidden[i], batch), (bias_gradient, 1))
            )
            for rows in _slabs(errs):
                self.back(errs[rows], values[rows])  # nobody reads these values any more
                biases[rows, 0] += errs[rows] @ ones  # a third of the time of sum(-1)
            if i:
                assert isinstance(weight_gradient, np.ndarray)
                self._onto(weight_gradient, error, hidden[i - 1].transpose(0, 2, 1))
                weight = self.weights[i]
                assert isinstance(weight, np.ndarray)  # as all but the first
                error = self._product(weight.transpose(0, 2, 1), error, out=room[i - 1])
            elif isinstance(weight_gradient, np.ndarray) and x[0] is x[1]:
                both = weight_gradient.reshape(-1, len(x[0]))
                self._onto(both, error.reshape(len(both), -1), x[0].T)
            else:
                for which in (0, 1):
                    self._onto(weight_gradient[which], error[which], x[which].T)

    def _buffers(self, batch: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Room for the hidden values and for their errors: a rollout, a minibatch and few others are ever asked for.

        Going back, an error takes the place of the hidden values above it, which nobody reads any more: the less memory
        is touched, the more of it stays in the cache.
        """
        if batch not in self._room:
            if len(self._room) > 8:
                self._room.clear()
            hidden = [aligned((2, len(weight[0]), batch), self.dtype) for weight in self.weights]
            errors = [b if a.shape == b.shape else aligned(a.shape, self.dtype) for a, b in pairwise(hidden)]
            self._room[batch] = hidden, [*errors, *(aligned(top.shape, self.dtype) for top in hidden[-1:])]
        return self._room[batch]


SLAB = 2**16
"""Numbers that stay in a core's cache from one elementwise operation to the next: of 512-256-128 and 3,072 samples, all
of them take 2 ns a number together, and 6 where each goes through all numbers."""


def _slabs(x: np.ndarray) -> list[slice]:
    """Rows of `[n, B]` that make a slab, all of them one after the other."""
    step = max(1, SLAB // max(1, x.shape[1]))
    return [slice(i, i + step) for i in range(0, len(x), step)]


class _Head:
    """A last layer and its gradients, as views."""

    def __init__(self, layer: nn.Linear, own: Callable[[Tensor], Tensor]) -> None:
        self.weight, self.bias = layer.weight.detach().numpy(), layer.bias.detach().numpy()[:, None]
        self.weight_gradient, self.bias_gradient = own(layer.weight).numpy(), own(layer.bias).numpy()


def aligned(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Room that begins at a multiple of 64 bytes, as torch's does: by where it begins, products differ in last bits."""
    return torch.empty(shape, dtype=getattr(torch, dtype.name)).numpy()


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


def aligned_copy(x: np.ndarray) -> np.ndarray:
    """A copy in such room, side by side."""
    copy = aligned(x.shape, x.dtype)
    copy[:] = x
    return copy
