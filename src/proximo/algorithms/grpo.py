"""Group relative policy optimization (Shao et al. 2024, arXiv 2402.03300), with Dr. GRPO's and DAPO's changes."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from proximo.algorithms.base import Transitions
from proximo.algorithms.grouped import Grouped
from proximo.core.advantages import relative
from proximo.core.batch import Batch, Evaluation
from proximo.core.divergences import kl_k3
from proximo.core.objectives import clipped_surrogate
from proximo.core.updates.update import Policy, Statistics, objective_at


@dataclass(frozen=True)
class GRPO(Grouped):
    """PPO's surrogate for every token; the advantage is the response's score, standardised within its group.

    The KL to the reference is paid for in the loss (k3, at `kl.coefficient`), not in the rewards. Dividing by the
    group's deviation weighs easy and hard prompts more, and the mean over each response weighs its tokens by its
    length; Dr. GRPO (Liu et al. 2025, arXiv 2503.20783) is `scale = off`, `length = limit`. DAPO (Yu et al. 2025, arXiv
    2503.14476) is `length = token`, `clip_high = 0.28`, and no KL.
    """

    kl_in_the_loss: ClassVar[bool] = True

    scale: Literal["group", "batch", "off"] = "group"
    """By whose standard deviation scores are divided: the group's, the batch's, or none (Dr. GRPO)."""
    length: Literal["response", "token", "limit"] = "response"
    """Divisor of a token's loss: its response's length (GRPO), the minibatch's tokens (DAPO), or
    `response_limit` (Dr. GRPO)."""

    unbiased_kl: bool = True
    """Whether k3 is multiplied by the ratio, which makes its gradient that of the tokens' KL(policy, reference)
    (DeepSeek-AI 2025, arXiv 2512.02556); false is the estimate of Shao et al. 2024."""

    def __post_init__(self) -> None:
        """Refuse settings that can not mean anything.

        Raises:
            ValueError: names the setting, its value and what it must be.
        """
        super().__post_init__()
        for name, known in (("scale", ("group", "batch", "off")), ("length", ("response", "token", "limit"))):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} = {getattr(self, name)!r} must be one of {', '.join(known)}")

    def estimate(self, rollout: Transitions) -> tuple[Tensor, ...]:
        """Scores relative to their group (section 4.1.2), and the weight of a response's tokens."""
        scores = rollout.rewards.sum(0)
        lengths = self.lengths(rollout).to(scores)
        limit = float(rollout.limit or len(rollout.rewards))
        weight = {
            "response": 1.0 / lengths,
            "token": torch.ones_like(scores),
            "limit": torch.full_like(scores, 1 / limit),
        }
        return self.spread(relative(scores, self.group, self.scale, ranks=rollout.ranks), rollout, weight[self.length])

    def denominator(self, minibatch: Batch) -> Tensor:
        """The minibatch's responses where lengths are those of the limit, else the sum of the weights."""
        if self.length == "limit":
            return minibatch.weight.new_tensor(float(len(minibatch)))
        return super().denominator(minibatch)

    def loss(self, seen: Evaluation, batch: Batch, progress: float, policy: Policy) -> tuple[Tensor, Statistics]:
        """The clipped surrogate of every token, and β times the KL to the reference (eq. 3 and 4)."""
        objective = objective_at(self, progress)
        loss, surrogate = clipped_surrogate(
            seen.log_prob,
            batch.log_prob,
            batch.advantages,
            clip=objective.clip,
            clip_high=self.clip_high,
            weight=batch.weight,
            total_weight=batch.total_weight,
        )
        entropy = batch.mean(seen.entropy)
        told = {"policy_loss": loss.detach(), "entropy": entropy.detach(), **surrogate._asdict()}
        loss = loss - objective.entropy_coefficient * entropy
        if (reference := batch.inputs.get("ref_log_prob")) is None:
            return loss, told
        each = kl_k3(seen.log_prob, reference)
        if self.unbiased_kl:
            each = each * torch.where(batch.weight > 0, seen.log_prob - batch.log_prob, 0.0).exp()
        kl = batch.mean(each)
        return loss + batch.inputs["kl_coefficient"][0] * kl, {**told, "kl_in_the_loss": kl.detach()}
