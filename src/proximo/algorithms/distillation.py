"""Distillation by DAgger (Ross, Gordon & Bagnell 2011, arXiv 1011.0686): a teacher says what it would have done."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, Protocol, runtime_checkable

from torch import Tensor

from proximo.algorithms.ppo import PPO
from proximo.core.batch import Batch, Evaluation
from proximo.core.distributions import Distribution
from proximo.core.objectives import value_loss
from proximo.core.schedules import Schedule, as_setting
from proximo.core.updates.update import Policy, Statistics, UpdateReport, UpdateTask
from proximo.errors import UserError

_NO_RATIO = "a student learns what its teacher would do, not from ratios of probabilities"
_OF_RATIOS = ("approx_kl", "last_approx_kl", "clip_fraction")
"""Metrics by which a step of PPO is judged; a student's steps have no such bounds."""


@runtime_checkable
class Taught(Protocol):
    """A policy whose batches hold what its teacher says."""

    def teacher(self, batch: Batch) -> Distribution:
        """The teacher's distribution over the actions, of each sample."""


@dataclass(frozen=True)
class Distillation(PPO):
    """KL(teacher, student) at what the student sees where it acts itself: the loss of online DAgger.

    With probability `beta` a step is the teacher's, which keeps the first rollouts where the teacher would be. Each
    rollout is learnt from and then forgotten: DAgger's guarantee holds for any no-regret learner (section 3.2), and the
    data of all rollouts are not kept. The critic learns the returns, so that PPO may go on from here.
    """

    lacks: ClassVar[Mapping[str, str]] = {
        **dict.fromkeys(("clip", "dual_clip", "target_kl", "adaptive_kl"), _NO_RATIO),
        "entropy_coefficient": "the student's entropy is to be its teacher's",
        "normalize_advantages": "there are no advantages in its loss",
        "recompute_advantages": "there are no advantages in its loss",
    }
    elsewhere: ClassVar[Mapping[str, str]] = {"language": "its teacher is the policy of a control run"}
    takes_images: ClassVar[bool] = False

    clip: float | str | None = None
    epochs: int = 4
    minibatch_size: int | None = 256
    normalize_advantages: Literal["batch", "minibatch", "off"] = "off"
    beta: float | str = "0: 1, 0.5: 0, 1: 0"
    """Share of the steps that the teacher takes, a number or a schedule: all at first, none from half-way on."""

    def __post_init__(self) -> None:
        """Refuse settings that can not mean anything.

        Raises:
            ValueError: names the setting, its value and what it must be.
        """
        super().__post_init__()
        object.__setattr__(self, "beta", as_setting(self.beta))
        low, high = Schedule.parse(self.beta, "beta").extremes
        if not 0 <= low <= high <= 1:
            raise ValueError(f"beta = {self.beta} must lie in [0, 1]")

    def loss(self, seen: Evaluation, batch: Batch, progress: float, policy: Policy) -> tuple[Tensor, Statistics]:
        """KL(teacher, student), a mean over samples, and the critic's error."""
        if not isinstance(policy, Taught) or seen.distribution is None or seen.value is None:
            raise UserError("distillation needs a policy with a teacher: start it with proximo.distill")
        divergence = batch.mean(policy.teacher(batch).kl(seen.distribution))
        error = value_loss(
            seen.value,
            batch.returns,
            old_values=batch.value,
            clip=self.value_clip,
            weight=batch.weight,
            total_weight=batch.total_weight,
        )
        told = {"imitation_kl": divergence.detach(), "value_loss": error.detach()}
        told["entropy"] = batch.mean(seen.entropy.detach())
        return divergence + self.value_coefficient * error, told

    def update(self, task: UpdateTask) -> UpdateReport:
        """PPO's epochs and minibatches."""
        report = super().update(replace(task, measure=False))
        values = {name: x for name, x in report.values.items() if name not in _OF_RATIOS}
        return replace(report, values=values, final_kl=None)
