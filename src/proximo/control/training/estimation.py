"""From a rollout to the batch that the update takes: values of what was really reached, advantages, returns."""

from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor

from proximo.algorithms.base import Algorithm, Transitions, estimated
from proximo.control.models.policy import ControlPolicy
from proximo.control.training.rollout import Actor, Rollout
from proximo.core.batch import Batch
from proximo.core.ranks import ALONE, Ranks
from proximo.errors import UserError


class Estimator:
    """Makes batches of rollouts.

    Args:
        policy: whose value normaliser and memory the batch must fit.
        actor: whose critic is asked.
        algorithm: what estimates advantages.
        gamma: discount per step.
        lam: λ.
        truncation: how a cut episode goes on: `TrainConfig.truncation`.
        ranks: each has a rollout of its own.
    """

    def __init__(
        self,
        policy: ControlPolicy,
        actor: Actor,
        algorithm: Algorithm,
        gamma: float,
        lam: float,
        truncation: str = "exact",
        ranks: Ranks = ALONE,
    ) -> None:
        self.policy, self.actor, self.algorithm, self.ranks = policy, actor, algorithm, ranks
        self.gamma, self.lam, self.truncation = gamma, lam, truncation
        self.bonus: Tensor | None = None
        """`[T, N]`, advantages beside those of the rewards, which the critic knows nothing of; None in most runs."""

    def batch(self, rollout: Rollout, rewards: Tensor) -> Batch:
        """One sample per step `[T * N]`, or per environment `[N, T]` where the policy has a memory.

        Args:
            rollout: what happened.
            rewards: `[T, N]`, as they are to be learnt from (scaled or not).

        Raises:
            UserError: nothing is left to learn from.
        """
        self._rollout, self.rewards = rollout, rewards
        # Two fields are rewritten each epoch when advantages are recomputed, the rest stays.
        advantages, returns, counted = self._estimate(rollout.value)
        if self.truncation == "drop" and not self._left(rollout):
            raise UserError(
                f"truncation = drop leaves out the last step of a cut episode, and each of the {rollout.steps:,} steps "
                "of this rollout is one: set truncation = previous, or longer episodes"
            )
        weight = torch.from_numpy(rollout.valid).to(rollout.value)
        weight = weight if counted is None else weight * counted
        inputs = dict(rollout.inputs)
        shaped = self._shaper()
        batch = Batch(
            inputs={name: shaped(x) for name, x in inputs.items()},
            action=shaped(rollout.action),
            log_prob=shaped(rollout.log_prob),
            value=shaped(rollout.value),
            advantages=shaped(advantages),
            returns=shaped(returns),
            weight=shaped(weight),
        )
        if rollout.memory is None:
            return batch
        starts = torch.from_numpy(rollout.starts).to(weight.device)
        recurrent = {"memory": rollout.memory, "starts": shaped(starts)}
        return Batch(**{**batch.__dict__, "inputs": {**batch.inputs, **recurrent}})

    def _left(self, rollout: Rollout) -> int:
        """Steps of all ranks that are not left out; asked by all of them together."""
        left = torch.tensor([float((rollout.valid & ~_cut(rollout)).sum())])
        return int(self.ranks.sum_across_ranks(left))

    def reestimate(self, batch: Batch) -> Batch:
        """The batch of the last rollout with advantages and returns by the critic as it is now.

        The old value (of the value clip) stays what it was. With a memory, the values at the cuts (the end of the
        rollout, a truncated episode's last state) read the state that the rollout left there.
        """
        advantages, returns, _ = self._estimate(self._values())
        shaped = self._shaper()
        return batch.replace(advantages=shaped(advantages), returns=shaped(returns))

    def _values(self) -> Tensor:
        """`[T, N]` by the critic as it is now; with a memory, from the state that the rollout began with."""
        rollout = self._rollout
        if rollout.memory is None:
            return self.actor.value(rollout.inputs)
        shaped = self._shaper()
        starts = torch.from_numpy(rollout.starts).to(rollout.memory.device)
        inputs = {name: shaped(x) for name, x in rollout.inputs.items()}
        return self.policy.sequence_values(inputs, rollout.memory, shaped(starts)).transpose(0, 1)

    def _shaper(self) -> Callable[[Tensor], Tensor]:
        if self._rollout.memory is None:
            return lambda x: x.flatten(0, 1)
        return lambda x: x.transpose(0, 1).contiguous()

    def _estimate(self, values: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Advantages in units of reward, returns in the critic's, and weights if the algorithm gives any, each
        `[T, N]`, from outputs of the critic.
        """
        rollout, units = self._rollout, self.policy.values
        values = units.from_units(values)
        following = torch.cat([values[1:], torch.empty_like(values[:1])])
        following[-1] = self._after(rollout.last_inputs, rollout.last_memory)
        cut = torch.from_numpy(_cut(rollout)).to(values.device)
        if self.truncation == "exact":
            for final in rollout.finals:
                rows = torch.from_numpy(final.rows).to(values.device)
                following[final.step, rows] = self._after(final.inputs, final.memory)
        elif self.truncation == "previous":
            following = torch.where(cut, values, following)
        elif self.gamma > 0:
            # What makes its error r + γ V' - V zero, so that nothing flows back from it (brax 0.14, compute_gae).
            following = torch.where(cut, (values - self.rewards.to(values)) / self.gamma, following)
        transitions = Transitions(
            self.rewards.to(values),
            values,
            following,
            torch.from_numpy(rollout.terminated).to(values.device),
            torch.from_numpy(rollout.done).to(values.device),
            self.gamma,
            self.lam,
            ranks=self.ranks,
        )
        advantages, returns, weight = estimated(self.algorithm, transitions)
        if self.bonus is not None:
            advantages = advantages + self.bonus.to(advantages)
        if self.truncation == "drop":
            kept = (~cut).to(values)
            weight = kept if weight is None else weight * kept
        return advantages, units.to_units(returns), weight

    def _after(self, inputs: Mapping[str, Tensor], memory: Tensor | None) -> Tensor:
        """`[N]`, in units of reward, of states that follow a cut."""
        # How an image lies in memory may decide the last bits, and what was stored lies as it is indexed. Cloned, since
        # `contiguous` leaves the strides of axes of length 1 as they are, by which torch chooses a convolution.
        laid = {name: x.clone(memory_format=torch.contiguous_format) for name, x in inputs.items()}
        return self.policy.values.from_units(self.actor.value(laid, memory))


def _cut(rollout: Rollout) -> np.ndarray:
    """`[T, N]`: steps whose episode was cut."""
    cut: np.ndarray = rollout.truncated & ~rollout.terminated & rollout.valid
    return cut
