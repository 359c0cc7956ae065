"""Trust region policy optimization (Schulman et al. 2015, arXiv 1502.05477)."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from proximo.algorithms.ppo import PPO
from proximo.core.batch import Batch, Evaluation
from proximo.core.distributions import Distribution
from proximo.core.divergences import kl_k3
from proximo.core.invariants import InvariantError, check_batch, check_first_ratio
from proximo.core.objectives import value_loss
from proximo.core.updates.across import SummedGradient, split_across
from proximo.core.updates.trust_region import conjugate_gradient, flat_gradient, hessian_product
from proximo.core.updates.update import (
    NOISE,
    Bounded,
    Gradient,
    Statistics,
    UpdateReport,
    UpdateTask,
    make_report,
    minibatches,
    normalized,
    objective_at,
)
from proximo.errors import UserError

_BOUND = "max_kl bounds the step"
_ONE_STEP = "the policy takes one step on each rollout; critic_epochs are the critic's passes"


@dataclass(frozen=True)
class TRPO(PPO):
    """One natural-gradient step for each rollout, as long as a bound on the KL allows; then the critic is fitted.

    Maximise mean ratio * A subject to mean KL(old policy, policy) <= max_kl (eq. 14). The direction solves F x = g by
    conjugate gradients, F being the Fisher matrix; its length sqrt(2 max_kl / x F x) meets the bound to second order
    (appendix C); a line search shortens it until the exact KL is within the bound and the surrogate has risen. Where
    no length does, the policy stays.

    The critic's own parameters are fitted by Adam at `learning_rate`. What actor and critic share is left to the
    policy's step, or the critic would carry the policy over the bound.
    """

    lacks: ClassVar[Mapping[str, str]] = {
        "clip": _BOUND,
        "dual_clip": _BOUND,
        "target_kl": _BOUND,
        "adaptive_kl": _BOUND,
        "epochs": _ONE_STEP,
        "recompute_advantages": _ONE_STEP,
        "value_coefficient": "the critic is fitted apart from the policy",
        "max_actor_grad_norm": _BOUND,
        "max_critic_grad_norm": "max_grad_norm is of the critic's gradient alone",
        "micro_batches": "the Fisher matrix is of the whole rollout",
    }

    takes_images: ClassVar[bool] = False
    elsewhere: ClassVar[Mapping[str, str]] = {
        "language": "it bounds the exact KL, for which a distribution over all tokens would have to be held"
    }

    clip: float | str | None = None
    epochs: int = 1
    minibatch_size: int | None = 128
    """Samples per step of the critic; None takes the whole rollout. The policy's step is of the whole rollout."""
    max_kl: float = 0.01
    """Bound on the mean KL(old policy, policy) of an update, nats."""
    conjugate_steps: int = 15
    """Conjugate-gradient steps, each a product with the Fisher matrix."""
    damping: float = 0.1
    """Added to the Fisher matrix's diagonal."""
    line_search_steps: int = 10
    """Lengths that are tried."""
    line_search_factor: float = 0.8
    """By which the length is multiplied from one try to the next."""
    critic_epochs: int = 10
    """The critic's passes over each rollout."""

    def __post_init__(self) -> None:
        """Refuse settings that can not mean anything.

        Raises:
            ValueError: names the setting, its value and what it must be.
        """
        super().__post_init__()
        rules = {
            "max_kl": (0 < self.max_kl < math.inf, "positive and finite"),
            "conjugate_steps": (self.conjugate_steps >= 1, "positive"),
            "damping": (0 <= self.damping < math.inf, "at least 0, and finite"),
            "line_search_steps": (self.line_search_steps >= 1, "positive"),
            "line_search_factor": (0 < self.line_search_factor < 1, "between 0 and 1"),
            "critic_epochs": (self.critic_epochs >= 1, "positive"),
            "normalize_advantages": (self.normalize_advantages != "minibatch", "batch or off: the step is of it all"),
        }
        for name, (holds, bound) in rules.items():
            if not holds:
                raise ValueError(f"{name} = {getattr(self, name)} must be {bound}")

    def update(self, task: UpdateTask) -> UpdateReport:
        """A step within the bound, and the critic's passes.

        Raises:
            ValueError: the minibatch size does not divide the batch.
            InvariantError: the batch is not finite, the first ratio is not 1, or a gradient is not finite.
            UserError: the policy's distributions have no exact KL.
        """
        minibatches(task.samples or len(task.batch), self.minibatch_size)
        check_batch(task.batch, counts=True if task.ranks.size > 1 else None)  # the loop has asked all ranks
        batch = normalized(task.batch, self, "batch", NOISE * task.reward_scale, task.ranks)
        step = _PolicyStep(self, replace(task, batch=batch))
        taken = step.take()
        critic = self._fit_critic(task, step.of_the_critic)
        values = {**critic.values, **taken}
        return UpdateReport(values, critic.steps + 1, False, taken["kl"])

    def _fit_critic(self, task: UpdateTask, own: Tensor) -> UpdateReport:
        """Adam on the value loss alone; `own` `[P]` is 1 for the critic's parameters."""
        optimizer = task.optimizer

        def gradient(minibatch: Batch) -> Statistics:
            seen = task.policy.evaluate(minibatch)
            if seen.value is None:
                raise UserError("TRPO fits a critic, and this policy has none")
            loss = value_loss(
                seen.value,
                minibatch.returns,
                old_values=minibatch.value,
                clip=self.value_clip,
                weight=minibatch.weight,
                total_weight=minibatch.total_weight,
            )
            loss.backward()
            optimizer.gradient.mul_(own)
            with torch.no_grad():
                kl = minibatch.mean(kl_k3(minibatch.log_prob, seen.log_prob))
            return {"value_loss": loss.detach(), "approx_kl": kl, "ratio_deviation": torch.zeros_like(kl)}

        summed: Gradient = gradient if task.ranks.size == 1 else SummedGradient(gradient, task.ranks, optimizer)
        watched = summed if task.watch is None else task.watch(summed)
        statistics: list[Statistics] = []
        norms: list[Tensor] = []
        count = minibatches(task.samples or len(task.batch), self.minibatch_size)
        for _ in range(self.critic_epochs):
            order = torch.randperm(len(task.batch), generator=task.generator).to(task.batch.weight.device)
            for minibatch in split_across(task.batch[order], count, task.ranks, self.denominator):
                optimizer.zero_grad()
                statistics.append(watched(minibatch))
                norms.append(optimizer.step(self.max_grad_norm))
        return make_report(statistics, norms, {"grad_norm": self.max_grad_norm}, None)


class _PolicyStep:
    """One step of the policy within the bound.

    Args:
        settings: the algorithm.
        task: with advantages as they are to be learnt from. Of several ranks each computes its share of every mean,
            and all take the step of the sums.
    """

    def __init__(self, settings: TRPO, task: UpdateTask) -> None:
        self._settings, self._task, self._ranks = settings, task, task.ranks
        total = self._ranks.sum_across_ranks(settings.denominator(task.batch))
        self._batch = replace(task.batch, total_weight=total)
        self._bonus = objective_at(settings, task.progress).entropy_coefficient
        with torch.no_grad():
            self._old = _distribution(task.policy.evaluate(task.batch))
        seen = task.policy.evaluate(task.batch)
        check_first_ratio(self._deviation(seen), task.allowed_deviation)
        self._share = self._objective(seen)
        self._kl = self._divergence(_distribution(seen))
        self._surrogate, self._entropy = self._summed(self._share, self._batch.mean(seen.entropy))
        parameters = task.optimizer.parameters
        found = torch.autograd.grad(self._share, parameters, retain_graph=True, allow_unused=True)
        flags = zip(found, parameters, strict=True)
        self.of_the_critic = torch.cat([torch.full((p.numel(),), float(g is None)).to(p) for g, p in flags])
        """`[P]`, 1 for parameters that the policy's actions do not depend on, else 0."""

    def take(self) -> dict[str, float]:
        """Take it; what it came to, by name.

        Raises:
            InvariantError: the gradient is not finite.
        """
        settings, parameters = self._settings, self._task.optimizer.parameters
        gradient = self._ranks.sum_across_ranks(flat_gradient(self._share, parameters))
        if not bool(torch.isfinite(gradient).all()):
            raise InvariantError(
                "not-finite: the gradient of the policy's step is not a finite number; look for extreme rewards or "
                "observations"
            )
        product = hessian_product(self._kl, parameters, settings.damping, self._ranks)
        direction = conjugate_gradient(product, gradient, settings.conjugate_steps)
        curvature = float(direction @ product(direction))
        norm = float(gradient.norm())
        residual = float((product(direction) - gradient).norm()) / norm if norm > 0 else 0.0
        length = math.sqrt(2 * settings.max_kl / curvature) if curvature > 0 else 0.0
        return {
            **self._search(length * direction),
            "entropy": self._entropy,
            "grad_norm": norm,
            "solver_residual": residual,
        }

    @torch.no_grad()
    def _search(self, step: Tensor) -> dict[str, float]:
        """The longest part of `step` that is tried and holds the bound and raises the surrogate."""
        settings, task, flat = self._settings, self._task, self._task.optimizer.flat
        before = flat.clone()
        for attempt in range(settings.line_search_steps if bool(step.any()) else 0):
            share = settings.line_search_factor**attempt
            flat.copy_(before + share * step)
            if isinstance(task.policy, Bounded):
                task.policy.project()
            seen = task.policy.evaluate(self._batch)
            estimate = self._batch.mean(kl_k3(self._batch.log_prob, seen.log_prob))
            kl, reached, estimated = self._summed(
                self._divergence(_distribution(seen)), self._objective(seen), estimate
            )
            if kl <= settings.max_kl and (gain := reached - self._surrogate) > 0:
                return self._told(share, kl, estimated, gain)
        flat.copy_(before)
        return self._told(0.0, 0.0, 0.0, 0.0)

    def _told(self, share: float, kl: float, estimate: float, gain: float) -> dict[str, float]:
        loss = -(self._surrogate + gain)
        numbers = {"kl": kl, "approx_kl": estimate, "last_approx_kl": estimate, "policy_loss": loss}
        return {**numbers, "step_share": share, "surrogate_gain": gain, "ratio_deviation": self._off}

    def _summed(self, *shares: Tensor) -> list[float]:
        """Means over all ranks' samples, of this rank's share of each."""
        found: list[float] = self._ranks.sum_across_ranks(torch.stack([x.detach() for x in shares])).tolist()
        return found

    def _objective(self, seen: Evaluation) -> Tensor:
        ratio = (seen.log_prob - self._batch.log_prob).exp()
        return self._batch.mean(ratio * self._batch.advantages + self._bonus * seen.entropy)

    def _deviation(self, seen: Evaluation) -> float:
        off = ((seen.log_prob.detach() - self._batch.log_prob).exp() - 1).abs()
        self._off = float(self._ranks.gather(torch.where(self._batch.weight > 0, off, 0.0).max()).max())
        return self._off

    def _divergence(self, now: Distribution) -> Tensor:
        try:
            return self._batch.mean(self._old.kl(now))
        except (NotImplementedError, TypeError) as error:
            raise UserError(
                f"TRPO bounds the exact KL, which the policy's distribution does not give: {error}"
            ) from error


def _distribution(seen: Evaluation) -> Distribution:
    if seen.distribution is None:
        raise UserError("TRPO bounds the exact KL of the policy's distribution, and this policy does not give one")
    return seen.distribution
