"""REINFORCE (Williams 1992): the policy gradient with whole returns, with or without a baseline."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from proximo.algorithms.a2c import ONE_STEP
from proximo.algorithms.base import Transitions
from proximo.algorithms.ppo import PPO
from proximo.core.advantages import gae
from proximo.core.batch import Batch, Evaluation
from proximo.core.updates.update import Policy, Statistics
from proximo.errors import UserError


@dataclass(frozen=True)
class REINFORCE(PPO):
    """One policy-gradient step on each rollout; an action is judged by the return that followed it.

    With the baseline, V(s) is taken off the return, which lowers the gradient's variance and not its mean (Williams
    1992, section 4); what a rollout or a time limit cuts is bootstrapped from V. Without it no critic is learnt. Then
    an episode that the rollout cuts counts nothing, since its return is not known, and one that a time limit cuts has
    the return that it got.
    """

    lacks: ClassVar[Mapping[str, str]] = ONE_STEP

    epochs: int = 1
    minibatch_size: int | None = None
    clip: float | str | None = None
    baseline: bool = True
    """Whether V(s) is learnt and taken off the returns."""

    @property
    def critic(self) -> bool:  # type: ignore[override]
        """Whether it learns values: only for the baseline."""
        return self.baseline

    def estimate(self, rollout: Transitions) -> tuple[Tensor, ...]:
        """Returns less the baseline, and returns; without a baseline also which steps count.

        Raises:
            UserError: without a baseline, no episode ended in the rollout, on any rank.
        """
        ends = rollout.terminated, rollout.done
        if self.baseline:
            return gae(rollout.rewards, rollout.values, rollout.next_values, *ends, gamma=rollout.gamma, lam=1.0)
        zeros = torch.zeros_like(rollout.values)
        _, returns = gae(rollout.rewards, zeros, zeros, *ends, gamma=rollout.gamma, lam=1.0)
        ended = rollout.done.flip(0).cumsum(0).flip(0) > 0  # an end lies at this step or after it
        if not rollout.ranks.sum_across_ranks(ended.any().to(returns)):
            raise UserError(
                f"no episode ended in a rollout of {len(returns)} steps, and REINFORCE without a baseline needs whole "
                "ones: raise rollout_length above the length of an episode, or set update.baseline = true"
            )
        return returns, returns, ended.to(returns)

    def loss(self, seen: Evaluation, batch: Batch, progress: float, policy: Policy) -> tuple[Tensor, Statistics]:
        """See `PPO`; without a baseline no values are learnt."""
        if self.baseline:
            return super().loss(seen, batch, progress, policy)
        loss, told = PPO.loss(replace(self, value_coefficient=0.0), seen, batch, progress, policy)
        return loss, {name: x for name, x in told.items() if name != "value_loss"}
