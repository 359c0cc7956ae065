"""REINFORCE with a leave-one-out baseline (Ahmadian et al. 2024, arXiv 2402.14740)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from proximo.algorithms.base import Transitions
from proximo.algorithms.grouped import Grouped
from proximo.core.advantages import leave_one_out
from proximo.core.batch import Batch, Evaluation
from proximo.core.objectives import clipped_surrogate
from proximo.core.updates.update import Policy, Statistics, objective_at


@dataclass(frozen=True)
class RLOO(Grouped):
    """A whole response is one action; its advantage is its reward less the mean reward of the others.

    The KL price is part of the reward, so the optimum is PPO's: pi(y) ~ pi_ref(y) exp(r(y) / beta). The ratio is that
    of whole responses, and is clipped as PPO's.
    """

    group: int = 4
    """Responses to each prompt."""

    def estimate(self, rollout: Transitions) -> tuple[Tensor, ...]:
        """Reward of the response, KL price and all, less the others' mean (eq. 8); each response counts the same."""
        advantages = leave_one_out(rollout.rewards.sum(0), self.group)
        return self.spread(advantages, rollout, 1.0 / self.lengths(rollout))

    def loss(self, seen: Evaluation, batch: Batch, progress: float, policy: Policy) -> tuple[Tensor, Statistics]:
        """The clipped surrogate of whole responses."""
        objective = objective_at(self, progress)
        real = batch.weight > 0
        change = torch.where(real, seen.log_prob - batch.log_prob, 0.0).sum(1, keepdim=True)
        # The same ratio at each of a response's tokens, whose weights add up to 1.
        loss, surrogate = clipped_surrogate(
            batch.log_prob + change,
            batch.log_prob,
            batch.advantages,
            clip=objective.clip,
            clip_high=self.clip_high,
            weight=batch.weight,
            total_weight=batch.total_weight,
        )
        entropy = batch.mean(seen.entropy)
        told = {"policy_loss": loss.detach(), "entropy": entropy.detach(), "clip_fraction": surrogate.clip_fraction}
        return loss - objective.entropy_coefficient * entropy, told
