"""Proximal policy optimization (Schulman et al. 2017, arXiv 1707.06347): advantages, loss and update."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from proximo.algorithms.base import Transitions
from proximo.core import objectives
from proximo.core.advantages import gae
from proximo.core.batch import Batch, Evaluation
from proximo.core.invariants import check_batch, check_first_ratio
from proximo.core.schedules import AdaptiveLearningRate
from proximo.core.settings import UpdateSettings
from proximo.core.updates.across import SummedGradient, split_across
from proximo.core.updates.added_terms import WithImages, WithTerm
from proximo.core.updates.exact_kl import NAME as EXACT
from proximo.core.updates.exact_kl import with_old
from proximo.core.updates.optimizer import Optimizer
from proximo.core.updates.update import (
    NOISE,
    AutogradGradient,
    Bounded,
    ClosedFormGradient,
    Gradient,
    Measuring,
    Parted,
    Policy,
    Statistics,
    UpdateReport,
    UpdateTask,
    make_report,
    minibatches,
    normalized,
    objective_at,
)


@dataclass(frozen=True)
class PPO(UpdateSettings):
    """PPO: what the policy did is made more likely where it turned out well, in small steps.

    Its fields are its settings. Subclass it as a frozen dataclass, with fields and defaults of your own, and override
    any of the three methods.
    """

    takes_images: ClassVar[bool] = True
    """Whether `update` learns from `UpdateTask.image` and `term` too."""

    def estimate(self, rollout: Transitions) -> tuple[Tensor, ...]:
        """Advantages and returns by generalised advantage estimation (Schulman et al. 2016, arXiv 1506.02438, eq. 16).

        Args:
            rollout: what happened, and what the critic said of it.

        Returns:
            Advantages, by which actions are made more or less likely, and returns, which the critic learns; each of the
            shape of `rollout.rewards`. A subclass may give a third tensor of that shape: how much each sample counts.
        """
        return gae(
            rollout.rewards,
            rollout.values,
            rollout.next_values,
            rollout.terminated,
            rollout.done,
            gamma=rollout.gamma,
            lam=rollout.lam,
        )

    def loss(self, seen: Evaluation, batch: Batch, progress: float, policy: Policy) -> tuple[Tensor, Statistics]:
        """The clipped surrogate, the critic's error and the entropy bonus (Schulman et al. 2017, eq. 9).

        Args:
            seen: log-probs, entropies, values and distribution of the batch under the policy as it is, with gradient.
            batch: a minibatch, or a part of one; `batch.mean` is the mean to take.
            progress: share of the run that is done, in [0, 1].
            policy: for a term that evaluates something else: `policy.evaluate(batch.replace(inputs=...))`.

        Returns:
            A scalar to minimise, and what to report by name: tensors without gradient, which are means by `batch.mean`,
            or plain numbers.
        """
        return objectives.ppo_loss(
            seen.log_prob,
            seen.entropy,
            seen.value,
            old_log_prob=batch.log_prob,
            advantages=batch.advantages,
            returns=batch.returns,
            old_values=batch.value,
            weight=batch.weight,
            objective=objective_at(self, progress),
            total_weight=batch.total_weight,
        )

    def update(self, task: UpdateTask) -> UpdateReport:
        """Epochs of minibatches over one rollout, a step of Adam for each (Schulman et al. 2017, algorithm 1).

        Raises:
            ValueError: the minibatch size does not divide the batch.
            InvariantError: the batch is not finite, the first ratio is not 1, or a gradient is not finite.
        """
        batch, optimizer, ranks = task.batch, task.optimizer, task.ranks
        count = minibatches(task.samples or len(batch), self.minibatch_size)
        check_batch(batch, counts=True if ranks.size > 1 else None)  # the loop has asked all ranks
        gradient = self.gradient(task)
        project = task.policy.project if isinstance(task.policy, Bounded) else None
        allowed = task.allowed_deviation  # now: a step changes the policy
        adaptive = self._adaptive_rate(optimizer.configured_rate)
        floor = NOISE * task.reward_scale
        statistics: list[Statistics] = []
        norms: list[Tensor] = []
        stopping: float | None = None
        apart = self._apart(task.policy)
        if adaptive is not None:
            by_hand = self._by_hand(task)
            if by_hand is None:
                batch = with_old(task.policy.evaluate, batch, count)
            else:  # without the critic
                batch = replace(batch, old=by_hand.tensors(batch))
        prepared = normalized(batch, self, "batch", floor, ranks)
        for epoch in range(self.epochs):
            if epoch and self.recompute_advantages and task.reestimate is not None:
                batch = task.reestimate(batch)
                prepared = normalized(batch, self, "batch", floor, ranks)
            permutation = torch.randperm(len(batch), generator=task.generator).to(batch.weight.device)
            shuffled = normalized(prepared[permutation], self, "minibatch", floor, ranks, count)
            for minibatch in split_across(shuffled, count, ranks, self.denominator):
                optimizer.zero_grad()
                seen = gradient(minibatch)
                if not statistics:
                    check_first_ratio(float(seen["ratio_deviation"]), allowed)
                # Both rules read a number before the step; without them nothing waits for the device.
                elif self.target_kl is not None and float(seen["approx_kl"]) > self.target_kl:
                    stopping = float(seen["approx_kl"])
                    break
                if adaptive is not None and statistics:
                    divergence = float(seen.get(EXACT, seen["approx_kl"]))
                    optimizer.learning_rate = adaptive.next(optimizer.learning_rate, divergence)
                norm, parts = self._step(optimizer, apart)
                norms.append(norm)
                if project is not None:
                    project()
                statistics.append({name: x for name, x in seen.items() if name != EXACT} | parts)
            if stopping is not None:
                break
        limits = {"grad_norm": self.max_grad_norm, **{name: limit for name, (_, limit) in apart.items()}}
        report = make_report(statistics, norms, limits, stopping)
        if stopping is None and isinstance(gradient, Measuring) and (task.measure or report.steps == 1):
            # Every minibatch is looked at before its step, so nobody has seen yet what the last step did.
            reached = gradient.divergence(minibatch)
            if adaptive is not None and report.steps == 1:  # no minibatch has come after a step
                optimizer.learning_rate = adaptive.next(optimizer.learning_rate, reached)
            return replace(report, final_kl=reached)
        return report

    def _apart(self, policy: Policy) -> dict[str, tuple[list[nn.Parameter], float]]:
        """Parameters whose gradient is clipped by itself, and to what, by the name of its norm.

        Raises:
            ValueError: the policy does not say which are the critic's.
        """
        limits = {"actor": self.max_actor_grad_norm, "critic": self.max_critic_grad_norm}
        wanted = {role: limit for role, limit in limits.items() if limit is not None}
        if wanted and not isinstance(policy, Parted):
            raise ValueError(f"max_{next(iter(wanted))}_grad_norm needs a policy that says which layers are whose")
        roles = policy.parameters_by_role() if isinstance(policy, Parted) and wanted else {}
        return {f"{role}_grad_norm": (roles[role], limit) for role, limit in wanted.items()}

    def _step(
        self, optimizer: Optimizer, apart: Mapping[str, tuple[list[nn.Parameter], float]]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Clip the gradient and take a step; its norm before, and those of the parts that were clipped apart."""
        if not apart:
            return optimizer.step(self.max_grad_norm), {}
        norm = torch.linalg.vector_norm(optimizer.gradient)
        parts = {name: nn.utils.clip_grad_norm_(parameters, limit) for name, (parameters, limit) in apart.items()}
        optimizer.step(self.max_grad_norm)
        return norm, parts

    def denominator(self, minibatch: Batch) -> Tensor:
        """Divisor of sums over a minibatch, as `Batch.mean` takes them; a scalar."""
        return minibatch.weight.sum()

    def gradient(self, task: UpdateTask) -> Gradient:
        """Autograd; the policy's own closed form where the loss is the very one that it was derived from."""
        gradient: Gradient
        if (by_hand := self._by_hand(task)) is not None:
            gradient = by_hand.at(objective_at(self, task.progress))
        else:
            gradient = AutogradGradient(
                task.policy,
                lambda seen, part: self.loss(seen, part, task.progress, task.policy),
                task.split,
                task.quantile,
                self.denominator,
            )
            if task.graphs is not None and type(self).loss is PPO.loss:
                gradient = task.graphs.of_gradient(task, objective_at(self, task.progress), gradient)
        if task.image is not None:
            gradient = WithImages(gradient, task.image, self.denominator)
        if task.term is not None:
            gradient = WithTerm(gradient, task.term, task.split, self.denominator)
        if task.ranks.size > 1:
            gradient = SummedGradient(gradient, task.ranks, task.optimizer)
        return gradient if task.watch is None else task.watch(gradient)

    def _by_hand(self, task: UpdateTask) -> ClosedFormGradient | None:
        """The policy's closed form, where the loss is the very one that it was derived from."""
        return task.closed_form if type(self).loss is PPO.loss else None

    def _adaptive_rate(self, configured: float) -> AdaptiveLearningRate | None:
        return None if self.adaptive_kl is None else AdaptiveLearningRate.around(self.adaptive_kl, configured)


def algorithm_of(settings: UpdateSettings) -> PPO:
    """The algorithm that settings describe: themselves where they are one, else PPO."""
    return settings if isinstance(settings, PPO) else PPO(**vars(settings))
