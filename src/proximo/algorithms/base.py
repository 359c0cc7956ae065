"""The on-policy loop that robots and language models are trained by, and what it asks of an algorithm."""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, Protocol, TypeVar

import torch
from torch import Tensor

from proximo.core.batch import Batch
from proximo.core.invariants import check_batch
from proximo.core.ranks import Ranks
from proximo.core.schedules import Schedule
from proximo.core.updates.optimizer import Optimizer
from proximo.core.updates.update import USUAL, UpdateReport, UpdateTask
from proximo.errors import UserError
from proximo.runs.replay.ring import Ring
from proximo.runs.replay.undo import Undo
from proximo.scale.mesh import ALONE

Rollout = TypeVar("Rollout")


@dataclass(frozen=True)
class Transitions:
    """A rollout as an estimator of advantages sees it, time first: `[T, N]` environment steps, or `[R, B]` tokens of
    responses. A language model's KL price is part of its rewards.
    """

    rewards: Tensor
    """In the units that the policy learns from."""
    values: Tensor
    """V(s_t), in units of reward."""
    next_values: Tensor
    """V(s_{t+1}) of the state that was really reached: at a time limit, of the final observation."""
    terminated: Tensor
    """bool: nothing follows."""
    done: Tensor
    """bool: the episode, or the response, ends here, terminated or cut."""
    gamma: float
    lam: float
    scores: Tensor | None = None
    """`[B]`, of whole responses before any KL price; None for environments."""
    limit: int | None = None
    """Tokens that a response may have at most; None for environments."""
    ranks: Ranks = ALONE
    """Each has a part of the rollout."""


class Algorithm(Protocol):
    """What the loop asks of an algorithm; `PPO` is one."""

    critic: ClassVar[bool]
    """Whether it learns values."""
    kl_in_the_loss: ClassVar[bool]
    """True where the loss pays for a language model's KL to its reference, and the rewards do not."""

    def estimate(self, rollout: Transitions) -> tuple[Tensor, ...]:
        """Advantages and returns, each of the shape of `rollout.rewards`; a third tensor says how much each counts."""

    def update(self, task: UpdateTask) -> UpdateReport:
        """Improve the policy on one batch."""


def is_ours(algorithm: object) -> bool:
    """Whether the algorithm's class is one of Proximo's, and not the user's own."""
    return type(algorithm).__module__.partition(".")[0] == "proximo"


def estimated(algorithm: Algorithm, rollout: Transitions) -> tuple[Tensor, Tensor, Tensor | None]:
    """What an algorithm estimates, of the right shapes: advantages, returns, and weights where it gives any.

    Raises:
        UserError: it is not.
    """
    found = algorithm.estimate(rollout)
    shapes = [tuple(x.shape) for x in found]
    if shapes not in ([tuple(rollout.rewards.shape)] * count for count in (2, 3)):
        raise UserError(
            f"estimate of {type(algorithm).__name__} gives shapes {shapes}, and has to give advantages and returns "
            f"(and, if it likes, weights) of the rewards' shape {tuple(rollout.rewards.shape)}"
        )
    advantages, returns, *weight = found
    return advantages, returns, weight[0] if weight else None


OF_A_CRITIC = frozenset({"explained_variance", "critic_error", "value_loss", "value_rms"})
"""Metrics that say nothing where no values are learnt."""
SCHEDULED = ("clip", "entropy_coefficient")
"""An algorithm's numbers that are metrics where a text, a schedule, gives them."""


@dataclass
class Counters:
    """What every run counts."""

    iterations: int = 0
    gradient_steps: int = 0


class OnPolicyTraining(ABC, Generic[Rollout]):
    """One policy that is trained: collect -> estimate -> update -> measure -> finish. A world says how each is done."""

    algorithm: Algorithm
    optimizer: Optimizer
    progress: Counters
    before: Undo
    """What `rewind` goes back to."""
    ring: Ring
    """The last updates, for a replay."""

    def __init__(self) -> None:
        self.mesh = ALONE
        """The ranks that train together."""
        self.reshared = False
        """Whether the run goes on with another number of ranks than it had."""
        self.seconds: dict[str, float] = {}
        """Of the iteration, by phase."""
        self.numbers: dict[str, float] = {}
        """What the algorithm keeps from one update to the next."""
        self.own_statistics: list[str] = []
        """Names of what an algorithm of the user's own has reported beside what PPO does."""
        self.interruptible: Callable[[], AbstractContextManager[None]] = nullcontext
        """Entered around what `rewind` can undo, by whoever may want to stop there."""

    @torch.enable_grad()
    def iterate(self) -> dict[str, Any]:
        """One rollout and one update; metrics by name.

        Raises:
            InvariantError: something that can not be true of a correct run; `ring` holds the update.
            UserError: an environment, a reward or a setting is at fault.
        """
        self.seconds = {}
        self.ring.forget()
        self.remember()
        self.prepare()
        progress = self.share_done
        if (rate := self.learning_rate(progress)) is not None:
            self.optimizer.learning_rate = rate
        with self.interruptible():
            with self.mesh.together():
                rollout = self.collect()
                collected = time.perf_counter()
            with self.mesh.last_words():
                batch = self.estimate(rollout)
                if not self.mesh.alone:
                    counts = self.mesh.any(bool((batch.weight > 0).any()))
                    with self.mesh.together():
                        check_batch(batch, counts)
                self.ring.begin(self.progress.iterations, progress, self.learnt_from(rollout, batch), self.facts())
                with torch.enable_grad():  # an environment or a reward may have switched it off
                    report = self.updated(self.task(rollout, batch, progress))
        self.ring.end(report)
        metrics = self._of_the_update(report, progress) | self.measure(rollout, batch, report)
        if not self.algorithm.critic:
            metrics |= dict.fromkeys(OF_A_CRITIC.intersection(metrics))
        metrics |= self.finish(rollout, batch, metrics)
        self.progress.iterations += 1
        self.progress.gradient_steps += report.steps
        self.seconds["update"] = time.perf_counter() - collected
        return metrics | {f"seconds/{phase}": value for phase, value in self.seconds.items()}

    def updated(self, task: UpdateTask) -> UpdateReport:
        """Have the algorithm do an update."""
        return self.algorithm.update(task)

    def _of_the_update(self, report: UpdateReport, progress: float) -> dict[str, Any]:
        given = {name: getattr(self.algorithm, name, None) for name in SCHEDULED}
        self.own_statistics = [] if is_ours(self.algorithm) else [name for name in report.values if name not in USUAL]
        return {
            **report.values,
            **{name: Schedule.parse(x, name).at(progress) for name, x in given.items() if isinstance(x, str)},
            "gradient_steps": report.steps,
            "stopped_by_kl": int(report.stopped_by_kl),
            "final_approx_kl": report.final_kl,
            "learning_rate": self.optimizer.learning_rate,
        }

    def parts(self) -> dict[str, Tensor]:
        """See `Trained`."""
        return {}

    def own(self, name: str) -> bool:
        """Whether what a checkpoint has under that name, a tensor's or the state's, is of one rank alone."""
        return name.partition("/")[0] == "random"

    def reshare(self) -> None:
        """Go on with another number of ranks than the checkpoint's: what was a rank's own begins anew."""

    def remember(self) -> None:
        """Note where `rewind` goes back to."""
        self.before.remember()

    @property
    @abstractmethod
    def share_done(self) -> float:
        """Share of the run that is done, in [0, 1]."""

    @abstractmethod
    def learning_rate(self, progress: float) -> float | None:
        """The scheduled step size; None where the updates steer it themselves."""

    @abstractmethod
    def prepare(self) -> None:
        """Make ready for an iteration."""

    @abstractmethod
    def collect(self) -> Rollout:
        """Act."""

    @abstractmethod
    def estimate(self, rollout: Rollout) -> Batch:
        """The batch to learn from, with the algorithm's advantages and returns."""

    @abstractmethod
    def learnt_from(self, rollout: Rollout, batch: Batch) -> Mapping[str, Tensor]:
        """What a replay needs to make this batch again, advantages and returns among it."""

    def facts(self) -> dict[str, Any]:
        """The same, for what is no tensor; JSON."""
        return {}

    @abstractmethod
    def task(self, rollout: Rollout, batch: Batch, progress: float) -> UpdateTask:
        """The update to be done."""

    @abstractmethod
    def measure(self, rollout: Rollout, batch: Batch, report: UpdateReport) -> dict[str, Any]:
        """Metrics of the iteration, by name."""

    @abstractmethod
    def finish(self, rollout: Rollout, batch: Batch, metrics: Mapping[str, Any]) -> dict[str, Any]:
        """Move statistics and counters, which stand still until here; metrics of that."""
