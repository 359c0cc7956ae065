"""An update done again and watched: what it came to, what was not finite first, which samples moved most."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from proximo.core.batch import Batch
from proximo.core.invariants import InvariantError
from proximo.core.updates.update import Gradient, Statistics, UpdateReport
from proximo.runs.replay.learner import Learner

SHOWN = 5
"""Samples shown of each kind."""


@dataclass(frozen=True)
class Sample:
    """One sample of the batch."""

    log_prob_change: float
    """Log-prob after the update minus before, nats."""
    advantage: float
    """As it was estimated, before any normalisation."""
    where: Mapping[str, Any]
    """Where it comes from and what it was."""


@dataclass(frozen=True)
class Outcome:
    """What an update came to."""

    begun: int
    """Minibatches whose gradient was taken; one more than the steps where `target_kl` stopped it."""
    report: UpdateReport | None
    """None if it failed."""
    error: str | None
    """Why it failed."""
    not_finite: str | None
    """The first tensor that was not finite, and in which minibatch."""
    weights: Tensor
    """All that is trained, afterwards, `[P]`."""
    moved_most: tuple[Sample, ...]
    """Largest |change of the log-prob|, the largest first."""
    largest_advantages: tuple[Sample, ...]
    """Largest |advantage|, the largest first."""


def repeat(learner: Learner) -> Outcome:
    """Do the update; watching changes nothing of it.

    Raises:
        ValueError: settings that do not fit the batch.
    """
    watch = _Watch(learner)
    report, error = None, None
    try:
        report = learner.algorithm.update(replace(learner.task, watch=watch.over))
    except InvariantError as failure:
        error = str(failure)
    weights = learner.task.optimizer.flat.detach().to("cpu", copy=True)
    batch = learner.task.batch
    change = _log_probs(learner) - batch.log_prob
    samples = [tuple(_samples(learner, _largest(x, batch.weight), change)) for x in (change, batch.advantages)]
    return Outcome(watch.begun, report, error, watch.found, weights, *samples)


class _Watch:
    """A gradient that looks for the first tensor that is not finite, in the order in which they are computed."""

    def __init__(self, learner: Learner) -> None:
        self._learner, self.begun = learner, 0
        self.found = _first(learner.task.batch.named_tensors(), learner.task.batch.weight)
        if self.found:
            self.found = f"{self.found} of the batch"

    def over(self, gradient: Gradient) -> Gradient:
        """The gradient, looked at; it is not asked what the last step did, which costs a pass."""
        return lambda minibatch: self._look(gradient, minibatch)

    def _look(self, gradient: Gradient, minibatch: Batch) -> Statistics:
        learner = self._learner
        parameter = learner.first_not_finite(learner.task.optimizer.flat)
        seen = gradient(minibatch)
        if self.found is None and (name := self._name(parameter, minibatch, seen)):
            self.found = f"{name} of minibatch {self.begun}"
        self.begun += 1
        return seen

    def _name(self, parameter: str | None, minibatch: Batch, seen: Statistics) -> str | None:
        if parameter is not None:
            return f"parameter {parameter} at the beginning"
        learner = self._learner
        gradient = learner.first_not_finite(learner.task.optimizer.gradient)
        losses = _first([(name, torch.as_tensor(x)) for name, x in seen.items()])
        if gradient is None and losses is None:
            return None
        with torch.no_grad():
            evaluation = learner.task.policy.evaluate(minibatch)
        outputs = [(name, x) for name, x in vars(evaluation).items() if isinstance(x, Tensor)]
        return _first(outputs, minibatch.weight) or losses or f"gradient of {gradient}"


def _first(named: list[tuple[str, Tensor]], weight: Tensor | None = None) -> str | None:
    """The first that is not finite where it counts."""
    for name, x in named:
        if x.is_floating_point() and not bool(torch.isfinite(_counted(x, weight)).all()):
            return name
    return None


def _counted(x: Tensor, weight: Tensor | None) -> Tensor:
    return x[weight > 0] if weight is not None and x.shape[: weight.dim()] == weight.shape else x


@torch.no_grad()
def _log_probs(learner: Learner) -> Tensor:
    """Of the batch's actions under the policy as it is now; a minibatch at a time, to save memory."""
    batch, size = learner.task.batch, learner.at_a_time
    parts = [batch[start : start + size] for start in range(0, len(batch), size)]
    return torch.cat([learner.task.policy.evaluate(part).log_prob for part in parts])


def _largest(x: Tensor, weight: Tensor) -> list[tuple[int, ...]]:
    """Indices of the samples that count and have the largest |x|; what is no number comes first."""
    size = torch.where(weight > 0, x.abs().nan_to_num(nan=float("inf")), -1.0).flatten()
    order = size.argsort(descending=True, stable=True)[:SHOWN]
    real = order[size[order] >= 0]
    return [tuple(int(i) for i in row) for row in torch.stack(torch.unravel_index(real, x.shape), 1)]


def _samples(learner: Learner, indices: list[tuple[int, ...]], change: Tensor) -> Iterator[Sample]:
    for index in indices:
        yield Sample(float(change[index]), float(learner.task.batch.advantages[index]), learner.where(index))
