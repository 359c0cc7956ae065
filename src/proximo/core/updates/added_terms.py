"""What a minibatch may teach beside its samples: their images under a symmetry, and a term of another kind."""

from collections.abc import Callable, Iterable
from dataclasses import replace

import torch
from torch import Tensor

from proximo.core.batch import Batch
from proximo.core.updates.exact_kl import NAME as EXACT
from proximo.core.updates.update import Gradient, Measuring, Statistics

_OF_SAMPLES = ("approx_kl", "clip_fraction", "kl_penalty", EXACT)
"""Means over what the old policy has drawn or seen; it has not drawn the images."""


class _Around:
    def __init__(self, gradient: Gradient) -> None:
        self._gradient = gradient

    def divergence(self, minibatch: Batch) -> float:
        """See `Measuring`: of the samples alone."""
        assert isinstance(self._gradient, Measuring)
        return self._gradient.divergence(minibatch)


class WithImages(_Around):
    """The gradient of a minibatch that its images have joined: the mean over twice as many samples.

    Images have the advantages, returns, old values and old log-probs of their samples (Mittal et al. 2024, arXiv
    2403.04359). Statistics are those of all of them, but for the ratio's: these are of the samples.

    Args:
        gradient: of either half, by its share of the whole.
        image: of a minibatch.
        denominator: what sums over a minibatch are divided by.
    """

    def __init__(
        self, gradient: Gradient, image: Callable[[Batch], Batch], denominator: Callable[[Batch], Tensor]
    ) -> None:
        super().__init__(gradient)
        self._image, self._denominator = image, denominator

    def __call__(self, minibatch: Batch) -> Statistics:
        """Add it."""
        half = replace(minibatch, total_weight=2 * _total(minibatch, self._denominator))
        images = replace(self._image(half), old={})  # what the old policy would do there is not known
        told, of_images = self._gradient(half), self._gradient(images)
        plain = not isinstance(told["approx_kl"], float)  # then numbers that are no tensors are no means
        found: dict[str, Tensor | float] = {}
        for name, x in told.items():
            if name in _OF_SAMPLES:
                found[name] = 2 * x
            elif name == "ratio_deviation" or (plain and not isinstance(x, Tensor)):
                found[name] = x
            else:
                found[name] = x + of_images[name]
        return found


class WithTerm(_Around):
    """The gradient with that of another term of the loss, by autograd.

    Args:
        gradient: of the rest.
        term: of a part of a minibatch, as `Batch.mean` takes it, and statistics.
        split: gives a minibatch in parts, to save memory.
        denominator: what sums over a minibatch are divided by.
    """

    def __init__(
        self,
        gradient: Gradient,
        term: Callable[[Batch], tuple[Tensor, Statistics]],
        split: Callable[[Batch], Iterable[Batch]],
        denominator: Callable[[Batch], Tensor],
    ) -> None:
        super().__init__(gradient)
        self._term, self._split, self._denominator = term, split, denominator

    def __call__(self, minibatch: Batch) -> Statistics:
        """Add it."""
        found, total = dict(self._gradient(minibatch)), _total(minibatch, self._denominator)
        parts = []
        for part in self._split(minibatch):
            loss, told = self._term(replace(part, total_weight=total))
            loss.backward()
            parts.append(told)
        for name in parts[0]:
            share = torch.stack([torch.as_tensor(told[name]) for told in parts]).sum()
            found[name] = float(share) if isinstance(found["approx_kl"], float) else share
        return found


def _total(minibatch: Batch, denominator: Callable[[Batch], Tensor]) -> Tensor:
    return denominator(minibatch) if minibatch.total_weight is None else minibatch.total_weight
