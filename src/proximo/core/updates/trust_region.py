"""The natural gradient without the Fisher matrix: products with it, and conjugate gradients to invert it."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from proximo.core.ranks import ALONE, Ranks

Product = Callable[[Tensor], Tensor]
"""`[P]` to `[P]`: a positive definite matrix times a vector."""


def flat_gradient(scalar: Tensor, parameters: Sequence[Tensor], *, again: bool = False) -> Tensor:
    """The gradient as one vector.

    Args:
        scalar: what is differentiated.
        parameters: by which, P numbers in all; 0 for those that it does not depend on.
        again: whether the gradient is to be differentiated in turn.

    Returns:
        `[P]`.
    """
    found = torch.autograd.grad(scalar, parameters, create_graph=again, retain_graph=True, allow_unused=True)
    parts = zip(found, parameters, strict=True)
    return torch.cat([(torch.zeros_like(p) if g is None else g).reshape(-1) for g, p in parts])


def hessian_product(
    scalar: Tensor, parameters: Sequence[Tensor], damping: float = 0.0, ranks: Ranks = ALONE
) -> Product:
    """Products with the matrix of second derivatives, plus `damping` times the identity (Pearlmutter 1994).

    Of KL(old policy, policy) at the old policy it is the Fisher matrix (Schulman et al. 2015, appendix C.1).

    Args:
        scalar: differentiable twice.
        parameters: P numbers in all.
        damping: added to the diagonal.
        ranks: each has a share of `scalar`, and the same parameters; the matrix is that of the sum of the shares.
    """
    gradient = flat_gradient(scalar, parameters, again=True)
    return lambda vector: ranks.sum_across_ranks(flat_gradient(gradient @ vector, parameters)) + damping * vector


def conjugate_gradient(product: Product, target: Tensor, steps: int, tolerance: float = 1e-10) -> Tensor:
    """Solve A x = target (Hestenes & Stiefel 1952).

    Args:
        product: A, symmetric and positive definite.
        target: `[P]`.
        steps: at most; P of them are exact but for rounding.
        tolerance: of the residual's square, relative to that of `target`; the search ends there.

    Returns:
        `[P]`.
    """
    x = torch.zeros_like(target)
    residual = target.clone()
    direction = residual.clone()
    size = residual @ residual
    enough = tolerance * float(size)
    for _ in range(steps):
        if float(size) <= enough:
            break
        image = product(direction)
        length = size / (direction @ image)
        x = x + length * direction
        residual = residual - length * image
        size, before = residual @ residual, size
        direction = residual + (size / before) * direction
    return x
