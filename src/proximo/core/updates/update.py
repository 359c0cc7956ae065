"""What an on-policy update is made of, whichever algorithm does it: the task, gradients, whitening, the report."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from proximo.core.advantages import whiten, whiten_across
from proximo.core.batch import Batch, Evaluation
from proximo.core.divergences import kl_k3
from proximo.core.invariants import InvariantError, ratio_tolerance
from proximo.core.objectives import Objective
from proximo.core.ranks import ALONE, Ranks, even
from proximo.core.schedules import Schedule
from proximo.core.settings import UpdateSettings
from proximo.core.statistics import high_quantile, weighted_mean
from proximo.core.updates.exact_kl import NAME as EXACT
from proximo.core.updates.exact_kl import exact_kl
from proximo.core.updates.optimizer import Optimizer

NOISE = 0.1
"""Advantages below this share of the rewards' own scale are not scaled up to 1: a critic that knows 99 % of what varies
leaves a tenth. In the presets' tasks advantages are 1 to 20 times the rewards' scale, so nothing is changed there."""

MUST_BE_FINITE = ("policy_loss", "value_loss", "entropy", "approx_kl", "ratio_deviation", "grad_norm")
"""Statistics whose being no number ends an update; one of the user's own is recorded as it is."""

USUAL = frozenset(
    [*MUST_BE_FINITE, EXACT, "clip_fraction", "grad_clip_fraction", "last_approx_kl", "stopping_kl"]
    + [f"{role}_grad_norm" for role in ("actor", "critic")]
)
"""Statistics that PPO reports itself; others are those of an algorithm on it."""

Statistics = Mapping[str, Tensor | float]
"""One minibatch in numbers, by name: tensors are means over its samples (`Batch.mean`), without gradient, and add up
over its parts; plain numbers are taken as they are. `approx_kl` (k3 estimate of KL(old
policy, policy), nats) and `ratio_deviation` (the largest |ratio - 1|) are always among them."""


class Policy(Protocol):
    """What the update asks of a policy."""

    def evaluate(self, batch: Batch) -> Evaluation:
        """Log-probs, entropies and values of the batch's actions, with gradient."""


@runtime_checkable
class Bounded(Protocol):
    """A policy with parameters that have a range of their own."""

    def project(self) -> None:
        """Put them back into it: beyond a clamp in the forward pass they would have no gradient, for ever."""


@runtime_checkable
class Parted(Protocol):
    """A policy that can say which of its parameters are the critic's alone."""

    def parameters_by_role(self) -> Mapping[str, list[nn.Parameter]]:
        """`critic`, and all others as `actor`."""


@runtime_checkable
class Rounding(Protocol):
    """A policy that knows how far rounding alone may take its ratios from 1."""

    def ratio_tolerance(self, batch: Batch) -> float:
        """The largest |ratio - 1| over `batch` that says nothing."""


Gradient = Callable[[Batch], Statistics]
"""Adds the gradient of one minibatch's loss to the parameters' `.grad`. One that is also `Measuring` is asked for the
divergence after the last step."""


@runtime_checkable
class Measuring(Protocol):
    """A gradient that can say how far the policy is from the one that acted without differentiating anything."""

    def divergence(self, minibatch: Batch) -> float:
        """k3 estimate of KL(old policy, policy) over the minibatch's samples, nats."""


class ClosedFormGradient(Protocol):
    """A policy's gradient of PPO's own loss, derived by hand."""

    def at(self, objective: Objective) -> Gradient:
        """The gradient with these numbers."""

    def tensors(self, batch: Batch) -> dict[str, Tensor]:
        """What the policy's distributions over the batch's actions are made of, for its `Batch.old`."""


class Replaying(Protocol):
    """What may replay a gradient instead of launching it anew (`core.updates.graphs`)."""

    def of_gradient(self, task: "UpdateTask", objective: Objective, gradient: Gradient) -> Gradient:
        """The gradient, or what replays it."""


Loss = Callable[[Evaluation, Batch], tuple[Tensor, Statistics]]
"""A minibatch's loss, or a part's share of it, with gradient; and statistics."""


def _whole(batch: Batch) -> Iterable[Batch]:
    return (batch,)


@dataclass(frozen=True)
class UpdateTask:
    """One update to be done: everything but the algorithm."""

    policy: Policy
    """Evaluated through autograd, unless `closed_form` is taken; one that is `Bounded` is projected after each step."""
    batch: Batch
    optimizer: Optimizer
    """Holds the parameters, their gradients and the learning rate."""
    progress: float = 0.0
    """Share of the run that is done, for the schedules."""
    generator: torch.Generator | None = None
    """Draws the permutations, on the CPU."""
    split: Callable[[Batch], Iterable[Batch]] = _whole
    """Gives a minibatch in parts, to save memory; however it splits, the gradient is the same."""
    quantile: float = 1.0
    """Quantile of |ratio - 1| that is a minibatch's `ratio_deviation`; 1 is the maximum."""
    closed_form: ClosedFormGradient | None = None
    """Taken where the algorithm's loss is PPO's own."""
    graphs: Replaying | None = None
    """Replays the gradient of PPO's own loss, where there is a GPU."""
    watch: Callable[[Gradient], Gradient] | None = None
    """Wraps the gradient, to look at it."""
    reestimate: Callable[[Batch], Batch] | None = None
    """Gives the batch new advantages and returns; called before each epoch after the first if
    `recompute_advantages`."""
    tolerance: float | None = None
    """How far the first ratio may be off 1; what rounding explains if None (`Rounding`, or that of the log-probs'
    type)."""
    measure: bool = True
    """Whether the KL after the last step is worth a pass of its own, without gradient, over one minibatch; False takes
    it only where there was one step, of which nothing else is seen."""
    numbers: dict[str, float] = field(default_factory=dict)
    """What the algorithm keeps from one update to the next, by name: it may write here, and a checkpoint has it."""
    ranks: Ranks = ALONE
    """Each has a batch of its own, a part of one whole; all take the same steps, on sums over all of them."""
    samples: int | None = None
    """Samples along the leading axis of all ranks' batches together; None where there is one rank."""
    image: Callable[[Batch], Batch] | None = None
    """Images of a minibatch's samples under a symmetry, which join them (`core.updates.added_terms`)."""
    term: Callable[[Batch], tuple[Tensor, Statistics]] | None = None
    """Of the loss, beside the algorithm's own: of a part of a minibatch, by autograd."""
    reward_scale: float = 0.0
    """The rewards' own scale (`core.statistics.informative`): normalised advantages are divided by at least `NOISE`
    times it. Where rewards are nearly all equal, advantages are the critic's errors alone."""

    @property
    def allowed_deviation(self) -> float:
        """How far the first ratio may be off 1, for the policy as it is now; all ranks ask, and hear the same."""
        if self.tolerance:
            return self.tolerance
        if isinstance(self.policy, Rounding):
            own = torch.tensor([self.policy.ratio_tolerance(self.batch)], dtype=torch.float64)
            return float(self.ranks.gather(own).max())
        return ratio_tolerance(self.batch.log_prob.dtype)


@dataclass(frozen=True)
class UpdateReport:
    """One update in numbers."""

    values: Mapping[str, float]
    """Means over the minibatches that were stepped on, by name; `ratio_deviation` is the first minibatch's,
    `last_approx_kl` that of the last one looked at, and `stopping_kl`, where there is one, of the one stopped at."""
    steps: int
    """Gradient steps taken."""
    stopped_by_kl: bool
    """Whether `target_kl` ended the update before its last minibatch."""
    final_kl: float | None = field(default=None, compare=False)
    """k3 estimate of KL(old policy, policy) after the last step, nats: over the minibatch that `target_kl` stopped at,
    else over the last one. None where it was not measured (`UpdateTask.measure`, `Measuring`)."""


class AutogradGradient:
    """The reference gradient: autograd, in parts that share the minibatch's denominator.

    Args:
        policy: what is evaluated.
        loss: of a part; its means are to be `Batch.mean`, so that parts add up.
        split: see `UpdateTask`.
        quantile: see `UpdateTask`.
        denominator: what sums over a minibatch are divided by, a scalar.
    """

    def __init__(
        self,
        policy: Policy,
        loss: Loss,
        split: Callable[[Batch], Iterable[Batch]] = _whole,
        quantile: float = 1.0,
        denominator: Callable[[Batch], Tensor] = lambda minibatch: minibatch.weight.sum(),
    ) -> None:
        self._policy, self._loss, self._split, self._quantile = policy, loss, split, quantile
        self._denominator = denominator

    def __call__(self, minibatch: Batch) -> Statistics:
        """Add the minibatch's gradient, or its share where it is a part itself, of one that lies on several ranks."""
        total_weight = self._denominator(minibatch) if minibatch.total_weight is None else minibatch.total_weight
        parts, deviations = [], []
        for part in self._split(minibatch):
            part = replace(part, total_weight=total_weight)
            evaluation = self._policy.evaluate(part)
            if self._quantile < 1:
                log_ratio = (evaluation.log_prob.detach() - part.log_prob)[part.weight > 0]
                deviations.append((log_ratio.exp() - 1).abs())
            loss, statistics = self._loss(evaluation, part)
            loss.backward()
            parts.append(_with_ratio(statistics, evaluation, part))
        if len(parts) == 1 and not deviations:
            return parts[0]
        # Each part is a share of the minibatch's mean, so shares add up; the deviation is a maximum.
        constants = {name: x for name, x in parts[0].items() if isinstance(x, int | float)}
        names = [name for name in parts[0] if name not in constants]
        columns = {name: torch.stack([torch.as_tensor(part[name]) for part in parts]) for name in names}
        deviation = high_quantile(torch.cat(deviations), self._quantile) if deviations else None
        largest = columns["ratio_deviation"].max() if deviation is None else deviation
        return {name: column.sum() for name, column in columns.items()} | {**constants, "ratio_deviation": largest}

    def divergence(self, minibatch: Batch) -> float:
        """See `Measuring`."""
        return divergence(self._policy, minibatch, self._split)


@torch.no_grad()
def divergence(
    policy: Policy, batch: Batch, split: Callable[[Batch], Iterable[Batch]] = _whole, ranks: Ranks = ALONE
) -> float:
    """k3 estimate of KL(old policy, policy) over a batch, nats.

    Args:
        policy: as it is now.
        batch: with the old policy's log-probs; the part of one that has a `total_weight` gives its share.
        split: see `UpdateTask`.
        ranks: whose batches are taken together.
    """
    total_weight = batch.weight.sum() if batch.total_weight is None else batch.total_weight
    if ranks.size > 1:
        total_weight = ranks.sum_across_ranks(batch.weight.sum())
    parts = [
        weighted_mean(kl_k3(part.log_prob, policy.evaluate(part).log_prob), part.weight, total_weight)
        for part in split(batch)
    ]
    return float(ranks.sum_across_ranks(torch.stack(parts).sum()))


def _with_ratio(statistics: Statistics, seen: Evaluation, part: Batch) -> Statistics:
    """The statistics with `approx_kl` and `ratio_deviation`, which a loss of the user's own need not give, and with the
    exact KL where it can be told.
    """
    if (exact := exact_kl(part, seen)) is not None:
        statistics = {**statistics, EXACT: exact}
    if "approx_kl" in statistics and "ratio_deviation" in statistics:
        return statistics
    with torch.no_grad():
        real = part.weight > 0
        deviation = torch.where(real, (seen.log_prob - part.log_prob).exp() - 1, 0.0).abs().max()
        divergence = part.mean(kl_k3(part.log_prob, seen.log_prob))
    return {"approx_kl": divergence, "ratio_deviation": deviation} | dict(statistics)


def objective_at(settings: UpdateSettings, progress: float) -> Objective:
    """The objective's numbers at `progress` in [0, 1]."""
    s = settings
    return _objective(s.clip, s.value_coefficient, s.entropy_coefficient, s.value_clip, s.dual_clip, progress)


@lru_cache(maxsize=8, typed=True)
def _objective(
    clip: float | str | None,
    value_coefficient: float,
    entropy_coefficient: float | str,
    value_clip: float | None,
    dual_clip: float | None,
    progress: float,
) -> Objective:
    """Read once for all minibatches of an update."""
    return Objective(
        clip=None if clip is None else Schedule.parse(clip).at(progress),
        value_coefficient=value_coefficient,
        entropy_coefficient=Schedule.parse(entropy_coefficient).at(progress),
        value_clip=value_clip,
        dual_clip=dual_clip,
    )


def minibatches(samples: int, minibatch_size: int | None) -> int:
    """How many minibatches a rollout is cut into; 1 where the size is None.

    Raises:
        ValueError: `minibatch_size` is larger than the batch or does not divide it.
    """
    if minibatch_size is None:
        return 1
    if samples % minibatch_size:
        fitting = max(size for size in range(1, min(samples, minibatch_size) + 1) if samples % size == 0)
        raise ValueError(
            f"minibatch_size = {minibatch_size} {'is larger than' if minibatch_size > samples else 'does not divide'} "
            f"the {samples} samples of a rollout; {fitting} would fit"
        )
    return samples // minibatch_size


def normalized(
    batch: Batch, settings: UpdateSettings, over: str, floor: float, ranks: Ranks = ALONE, count: int = 1
) -> Batch:
    """The batch with advantages of mean 0 and variance 1, if that is what the settings ask for at this point.

    Args:
        batch: a rollout, or its minibatches one after the other.
        settings: say over what, and the size of a minibatch.
        over: `batch` or `minibatch`, the point that the update is at.
        floor: the least number that advantages are divided by.
        ranks: whose batches are parts of the same rollout, and whose minibatches of the same.
        count: minibatches of the batch, where there are several ranks.
    """
    if settings.normalize_advantages != over:
        return batch
    if ranks.size > 1:
        sizes = even(len(batch), count if over == "minibatch" else 1)
        return batch.replace(advantages=whiten_across(batch.advantages, batch.weight, sizes, ranks, floor))
    if over == "batch":
        return batch.replace(advantages=_whitened(batch.advantages, batch.weight, floor))
    size = settings.minibatch_size or len(batch)
    advantages, weight = (x.unflatten(0, (-1, size)) for x in (batch.advantages, batch.weight))
    return batch.replace(advantages=_whitened(advantages, weight, floor, rows=True).flatten(0, 1))


def _whitened(advantages: Tensor, weight: Tensor, floor: float, *, rows: bool = False) -> Tensor:
    """As `whiten`, but a sample that counts alone is left as it is: less its own mean it would be 0, never learnt."""
    real = weight > 0
    counted = real.sum(list(range(1, weight.dim())), keepdim=True) if rows else real.sum()
    return torch.where(counted > 1, whiten(advantages, weight, rows=rows, floor=floor), advantages)


def make_report(
    statistics: list[Statistics], norms: list[Tensor], limits: Mapping[str, float | None], stopping: float | None
) -> UpdateReport:
    """An update in numbers.

    Args:
        statistics: of each minibatch that was stepped on.
        norms: of its gradients, before they were clipped.
        limits: to which they were clipped, if at all, by the name of the norm among the statistics; `grad_norm` is that
            of the whole.
        stopping: the KL of the minibatch that `target_kl` stopped at.

    Raises:
        InvariantError: a loss or a gradient was not finite.
    """
    # The only transfer from the device: one tensor of all minibatches' numbers.
    names = [name for name in statistics[0] if all(name in row for row in statistics)]
    if isinstance(statistics[0]["approx_kl"], float):  # a closed form works with plain numbers
        rows = torch.tensor([[row[name] for name in names] for row in statistics], dtype=torch.float32)
    else:
        numbers = [[torch.as_tensor(row[name], dtype=torch.float32) for name in names] for row in statistics]
        device = norms[0].device
        rows = torch.stack([torch.stack([x.to(device) for x in row]) for row in numbers])
    norm = torch.stack(norms).to(torch.float32)
    table = torch.cat([rows.to(norm.device), norm.unsqueeze(1)], 1).cpu()
    names.append("grad_norm")
    finite = torch.isfinite(table[:, [i for i, name in enumerate(names) if name in MUST_BE_FINITE]])
    if not finite.all():
        step = int((~finite).any(1).nonzero()[0])
        raise InvariantError(
            f"not-finite: the loss or gradient of minibatch {step} of this update is not a finite number; lower the "
            "learning rate, or look for extreme rewards or observations"
        )
    values = dict(zip(names, table.mean(0).tolist(), strict=True))
    for name in dict.fromkeys(name for row in statistics for name in row if name not in values):  # not in all of them
        seen = [float(row[name]) for row in statistics if name in row]
        values[name] = sum(seen) / len(seen)
    values["ratio_deviation"] = float(table[0, names.index("ratio_deviation")])
    clipped = [table[:, names.index(name)] > limit for name, limit in limits.items() if limit is not None]
    values["grad_clip_fraction"] = float(torch.stack(clipped).any(0).float().mean()) if clipped else 0.0
    values["last_approx_kl"] = float(table[-1, names.index("approx_kl")])
    if stopping is None:
        return UpdateReport(values, len(statistics), False)
    # It was not stepped on, so it is in no mean; left out altogether, a step far too large would read as none.
    values["stopping_kl"] = values["last_approx_kl"] = stopping
    return UpdateReport(values, len(statistics), True, stopping)
