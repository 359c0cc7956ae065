"""THE on-policy update: epochs x minibatches over any batch, used by robots and language models alike."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from proximo.core import objectives
from proximo.core.advantages import whiten
from proximo.core.batch import Batch, Evaluation
from proximo.core.divergences import kl_k3
from proximo.core.invariants import InvariantError, check_batch, check_first_ratio, ratio_tolerance
from proximo.core.objectives import LossStatistics, Objective, ppo_loss
from proximo.core.optimizer import FlatAdam
from proximo.core.schedules import AdaptiveLearningRate, Schedule
from proximo.core.settings import UpdateSettings
from proximo.core.statistics import high_quantile, weighted_mean

NOISE = 0.1
"""Advantages below this share of the rewards' own scale are not scaled up to 1: a critic that knows 99 % of what varies
leaves a tenth. In the presets' tasks advantages are 1 to 20 times the rewards' scale, so nothing is changed there."""


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
class Rounding(Protocol):
    """A policy that knows how far rounding alone may take its ratios from 1."""

    def ratio_tolerance(self, batch: Batch) -> float:
        """The largest |ratio - 1| over `batch` that says nothing."""


Gradient = Callable[[Batch, Objective], LossStatistics]
"""Adds the gradient of one minibatch's loss to the parameters' `.grad`; a policy that knows it in closed form may
supply one for speed. One that is also `Measuring` is asked for the divergence after the last step."""


@runtime_checkable
class Measuring(Protocol):
    """A gradient that can say how far the policy is from the one that acted without differentiating anything."""

    def divergence(self, minibatch: Batch) -> float:
        """k3 estimate of KL(old policy, policy) over the minibatch's samples, nats."""


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
    else over the last one. None where it was not measured (`update`, `Measuring`)."""


_STANDARD_LOSS = ppo_loss


def _loss() -> Callable[..., tuple[Tensor, LossStatistics]]:
    """The loss as it is now: someone who puts another one in its place, there or here, means it to be used."""
    return objectives.ppo_loss if ppo_loss is _STANDARD_LOSS else ppo_loss


class AutogradGradient:
    """The reference gradient, see `autograd_gradient`."""

    def __init__(self, policy: Policy, split: Callable[[Batch], Iterable[Batch]], quantile: float) -> None:
        self._policy, self._split, self._quantile = policy, split, quantile

    def __call__(self, minibatch: Batch, objective: Objective) -> LossStatistics:
        """Add the minibatch's gradient."""
        total_weight = minibatch.weight.sum()
        parts, deviations = [], []
        for part in self._split(minibatch):
            evaluation = self._policy.evaluate(part)
            if self._quantile < 1:
                log_ratio = (evaluation.log_prob.detach() - part.log_prob)[part.weight > 0]
                deviations.append((log_ratio.exp() - 1).abs())
            loss, statistics = _loss()(
                evaluation.log_prob,
                evaluation.entropy,
                evaluation.value,
                old_log_prob=part.log_prob,
                advantages=part.advantages,
                returns=part.returns,
                old_values=part.value,
                weight=part.weight,
                objective=objective,
                total_weight=total_weight,
            )
            loss.backward()
            parts.append(statistics)
        # Each part is a share of the minibatch's mean, so shares add up; the deviation is a maximum.
        columns = [torch.stack(column) for column in zip(*parts, strict=True)]
        deviation = high_quantile(torch.cat(deviations), self._quantile) if deviations else columns[-1].max()
        sums = parts[0] if len(parts) == 1 else LossStatistics(*[column.sum() for column in columns])
        return sums._replace(ratio_deviation=deviation)

    @torch.no_grad()
    def divergence(self, minibatch: Batch) -> float:
        """See `Measuring`."""
        total_weight = minibatch.weight.sum()
        parts = [
            weighted_mean(kl_k3(part.log_prob, self._policy.evaluate(part).log_prob), part.weight, total_weight)
            for part in self._split(minibatch)
        ]
        return float(torch.stack(parts).sum())


def autograd_gradient(
    policy: Policy,
    split: Callable[[Batch], Iterable[Batch]] = lambda batch: [batch],
    quantile: float = 1.0,
) -> AutogradGradient:
    """The reference gradient: autograd, in the parts that `split` makes, which share the minibatch's denominator.

    Args:
        policy: what is evaluated.
        split: gives the minibatch in parts, to save memory; however it splits, the gradient is the same.
        quantile: which quantile of |ratio - 1| is the minibatch's `ratio_deviation`; 1 is the maximum.
    """
    return AutogradGradient(policy, split, quantile)


def objective_at(settings: UpdateSettings, progress: float) -> Objective:
    """The objective's numbers at `progress` in [0, 1]."""
    return Objective(
        clip=None if settings.clip is None else Schedule.parse(settings.clip).at(progress),
        value_coefficient=settings.value_coefficient,
        entropy_coefficient=Schedule.parse(settings.entropy_coefficient).at(progress),
        value_clip=settings.value_clip,
        dual_clip=settings.dual_clip,
    )


def check_minibatch_size(samples: int, minibatch_size: int) -> None:
    """A rollout is cut into whole minibatches.

    Raises:
        ValueError: `minibatch_size` is larger than the batch or does not divide it.
    """
    if samples % minibatch_size:
        fitting = max(size for size in range(1, min(samples, minibatch_size) + 1) if samples % size == 0)
        raise ValueError(
            f"minibatch_size = {minibatch_size} {'is larger than' if minibatch_size > samples else 'does not divide'} "
            f"the {samples} samples of a rollout; {fitting} would fit"
        )


def update(
    policy: Policy,
    batch: Batch,
    optimizer: FlatAdam,
    settings: UpdateSettings,
    *,
    progress: float = 0.0,
    generator: torch.Generator | None = None,
    gradient: Gradient | None = None,
    reestimate: Callable[[Batch], Batch] | None = None,
    tolerance: float | None = None,
    measure: bool = True,
    reward_scale: float = 0.0,
) -> UpdateReport:
    """Improve `policy` on `batch` (Schulman et al. 2017, algorithm 1, the inner loop).

    One epoch over one minibatch without a clip is the policy-gradient step of REINFORCE and A2C.

    Args:
        policy: evaluated through autograd, unless `gradient` is given; one that is `Bounded` is projected after each
            step.
        batch: `minibatch_size` counts samples of its leading axis.
        optimizer: holds the parameters, their gradients and the learning rate.
        settings: what to do.
        progress: share of the run that is done, for the schedules.
        generator: draws the permutations, on the CPU.
        gradient: see `Gradient`.
        reestimate: gives the batch advantages and returns anew; called before each epoch after the first if
            `settings.recompute_advantages`.
        measure: whether the KL after the last step is worth a pass of its own, without gradient, over one minibatch;
            False takes it only where there was one step, of which nothing else is seen.
        reward_scale: the rewards' own scale (`core.statistics.informative`): normalised advantages are divided by at
            least `NOISE` times it. Where rewards are nearly all equal, advantages are the critic's errors alone.
        tolerance: how far the first ratio may be off 1; what rounding explains if None (`Rounding`, or else that of
            the log-probs' type).

    Raises:
        ValueError: the minibatch size does not divide the batch.
        InvariantError: the batch is not finite, the first ratio is not 1, or a gradient is not finite.
    """
    check_minibatch_size(len(batch), settings.minibatch_size)
    check_batch(batch)
    objective = objective_at(settings, progress)
    gradient = gradient or autograd_gradient(policy, lambda batch: batch.split(settings.micro_batches))
    allowed = tolerance or _rounding(policy, batch)  # now: a step changes the policy
    project = policy.project if isinstance(policy, Bounded) else None
    adaptive = _adaptive(settings, optimizer)
    statistics: list[LossStatistics] = []
    norms: list[Tensor] = []
    stopping: float | None = None
    floor = NOISE * reward_scale
    prepared = _normalized(batch, settings, "batch", floor)
    for epoch in range(settings.epochs):
        if epoch and settings.recompute_advantages and reestimate is not None:
            batch = reestimate(batch)
            prepared = _normalized(batch, settings, "batch", floor)
        permutation = torch.randperm(len(batch), generator=generator).to(batch.weight.device)
        shuffled = _normalized(prepared[permutation], settings, "minibatch", floor)
        for minibatch in shuffled.split(len(batch) // settings.minibatch_size):
            optimizer.zero_grad()
            seen = gradient(minibatch, objective)
            if not statistics:
                check_first_ratio(float(seen.ratio_deviation), allowed)
            # Both rules read a number before the step; without them nothing waits for the device.
            elif settings.target_kl is not None and float(seen.approx_kl) > settings.target_kl:
                stopping = float(seen.approx_kl)
                break
            if adaptive is not None and statistics:
                optimizer.learning_rate = adaptive.next(optimizer.learning_rate, float(seen.approx_kl))
            norms.append(optimizer.step(settings.max_grad_norm))
            if project is not None:
                project()
            statistics.append(seen)
        if stopping is not None:
            break
    report = _report(statistics, norms, settings, stopping)
    if stopping is None and isinstance(gradient, Measuring) and (measure or report.steps == 1):
        # Every minibatch is looked at before its step, so nobody has seen yet what the last step did.
        return replace(report, final_kl=gradient.divergence(minibatch))
    return report


def _adaptive(settings: UpdateSettings, optimizer: FlatAdam) -> AdaptiveLearningRate | None:
    if settings.adaptive_kl is None:
        return None
    return AdaptiveLearningRate.around(settings.adaptive_kl, optimizer.configured_rate)


def _rounding(policy: Policy, batch: Batch) -> float:
    return policy.ratio_tolerance(batch) if isinstance(policy, Rounding) else ratio_tolerance(batch.log_prob.dtype)


def _normalized(batch: Batch, settings: UpdateSettings, over: str, floor: float) -> Batch:
    if settings.normalize_advantages != over:
        return batch
    if over == "batch":
        return batch.replace(advantages=_whitened(batch.advantages, batch.weight, floor))
    size = settings.minibatch_size
    advantages, weight = (x.unflatten(0, (-1, size)) for x in (batch.advantages, batch.weight))
    return batch.replace(advantages=_whitened(advantages, weight, floor, rows=True).flatten(0, 1))


def _whitened(advantages: Tensor, weight: Tensor, floor: float, *, rows: bool = False) -> Tensor:
    """As `whiten`, but a sample that counts alone is left as it is: less its own mean it would be 0, never learnt."""
    real = weight > 0
    counted = real.sum(list(range(1, weight.dim())), keepdim=True) if rows else real.sum()
    return torch.where(counted > 1, whiten(advantages, weight, rows=rows, floor=floor), advantages)


def _report(
    statistics: list[LossStatistics], norms: list[Tensor], settings: UpdateSettings, stopping: float | None
) -> UpdateReport:
    # The only transfer from the device: one tensor of all minibatches' numbers.
    if isinstance(statistics[0].policy_loss, float):  # a closed form works with plain numbers
        rows = torch.tensor(statistics, dtype=torch.float32)
    else:
        rows = torch.stack([torch.stack([torch.as_tensor(x, dtype=torch.float32) for x in row]) for row in statistics])
    norm = torch.stack(norms).to(torch.float32)
    table = torch.cat([rows.to(norm.device), norm.unsqueeze(1)], 1).cpu()
    if not torch.isfinite(table).all():
        step = int((~torch.isfinite(table)).any(1).nonzero()[0])
        raise InvariantError(
            f"not-finite: the loss or gradient of minibatch {step} of this update is not a finite number; lower the "
            "learning rate, or look for extreme rewards or observations"
        )
    names = [*LossStatistics._fields, "grad_norm"]
    values = dict(zip(names, table.mean(0).tolist(), strict=True))
    values["ratio_deviation"] = float(table[0, names.index("ratio_deviation")])
    limit = settings.max_grad_norm
    values["grad_clip_fraction"] = 0.0 if limit is None else float((table[:, -1] > limit).float().mean())
    values["last_approx_kl"] = float(table[-1, names.index("approx_kl")])
    if stopping is None:
        return UpdateReport(values, len(statistics), False)
    # It was not stepped on, so it is in no mean; left out altogether, a step far too large would read as none.
    values["stopping_kl"] = values["last_approx_kl"] = stopping
    return UpdateReport(values, len(statistics), True, stopping)
