"""PPO with a penalty on the KL instead of a clip (Schulman et al. 2017, arXiv 1707.06347, section 4)."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

from torch import Tensor

from proximo.algorithms.ppo import PPO
from proximo.core.batch import Batch, Evaluation
from proximo.core.divergences import kl_k3
from proximo.core.updates.update import Policy, Statistics, UpdateReport, UpdateTask, divergence

_NO_CLIP = "the penalty on the KL takes the clip's place"
KL_COEFFICIENT = "kl_coefficient"
"""Name of β among the numbers that are kept from one update to the next."""


ROOM = 2.0**20
"""β is steered to at most so many times the β that was set, and to at least that part of it: twenty doublings."""


@dataclass(frozen=True)
class PPOPenalty(PPO):
    """The surrogate less β KL(old policy, policy); β is fixed, or steered so that each update comes to a target.

    The KL is estimated as the mean of r - 1 - log r over the old policy's actions (k3), r being the ratio. Its mean is
    the KL and the mean of its gradient is that of the KL, so it serves robots and language models alike.
    """

    lacks: ClassVar[Mapping[str, str]] = {
        "clip": _NO_CLIP,
        "dual_clip": _NO_CLIP,
        "adaptive_kl": "kl_target steers the penalty, and the learning rate follows its schedule",
    }

    clip: float | str | None = None
    kl_coefficient: float = 1.0
    """β, per nat: where it begins, or the fixed value."""
    kl_target: float | None = 0.01
    """KL (nats) that an update is to come to; None keeps β fixed."""

    def __post_init__(self) -> None:
        """Refuse settings that can not mean anything.

        Raises:
            ValueError: names the setting, its value and what it must be.
        """
        super().__post_init__()
        for name in ("kl_coefficient", "kl_target"):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise ValueError(f"{name} = {value} must be positive and finite")

    def loss(self, seen: Evaluation, batch: Batch, progress: float, policy: Policy) -> tuple[Tensor, Statistics]:
        """PPO's loss without a clip, and β times the KL (eq. 8)."""
        loss, statistics = super().loss(seen, batch, progress, policy)
        penalty = self.kl_coefficient * batch.mean(kl_k3(batch.log_prob, seen.log_prob))
        return loss + penalty, {**statistics, "kl_penalty": penalty.detach()}

    def update(self, task: UpdateTask) -> UpdateReport:
        """PPO's update with the present β, which is doubled or halved where the KL came to 1.5 times the target or less
        than that part of it.

        It stays within `ROOM` times the β that was set: one that was halved for long would take as long to come back,
        and would be 0 in the end.
        """
        if self.kl_target is None:
            return super().update(task)
        beta = task.numbers.get(KL_COEFFICIENT, self.kl_coefficient)
        report = PPO.update(replace(self, kl_coefficient=beta), task)
        reached = divergence(task.policy, task.batch, task.split, task.ranks)
        if reached < self.kl_target / 1.5:
            task.numbers[KL_COEFFICIENT] = min(beta, max(beta / 2, self.kl_coefficient / ROOM))
        elif reached > self.kl_target * 1.5:
            task.numbers[KL_COEFFICIENT] = max(beta, min(beta * 2, self.kl_coefficient * ROOM))
        return replace(report, values={**report.values, KL_COEFFICIENT: beta}, final_kl=reached)
