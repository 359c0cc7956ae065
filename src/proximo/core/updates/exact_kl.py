"""The exact KL(old policy, policy) of a minibatch, where the actions' distributions have a closed form."""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from proximo.core.batch import Batch, Evaluation
from proximo.core.distributions import Distribution

NAME = "exact_step_kl"
"""Statistic of a minibatch whose `Batch.old` is there; it steers the learning rate and is not recorded."""


@torch.no_grad()
def with_old(evaluate: Callable[[Batch], Evaluation], batch: Batch, count: int) -> Batch:
    """The batch with what the policy's distributions are made of as it is now, before it changes.

    Args:
        evaluate: the policy that acted.
        batch: its actions.
        count: parts in which the batch is looked at.

    Returns:
        The batch as it was where the distributions are not known, or have no exact KL (a language model's, one of the
        user's own).
    """
    if not _has_exact_kl(evaluate(batch[:1]).distribution):
        return batch
    seen = [evaluate(part).distribution for part in batch.split(count)]
    told = [each.tensors() for each in seen if each is not None]
    return replace(batch, old={name: torch.cat([row[name] for row in told]) for name in told[0]})


def exact_kl(batch: Batch, seen: Evaluation) -> Tensor | None:
    """Share of the minibatch's mean KL(old policy, policy), nats, a scalar; None where it is not known."""
    if not batch.old or seen.distribution is None:
        return None
    with torch.no_grad():
        return batch.mean(seen.distribution.like(batch.old).kl(seen.distribution))


def _has_exact_kl(distribution: Distribution | None) -> bool:
    if distribution is None:
        return False
    try:
        told = distribution.tensors()
        return bool(told) and bool(torch.isfinite(distribution.like(told).kl(distribution)).all())
    except (NotImplementedError, TypeError):
        return False
