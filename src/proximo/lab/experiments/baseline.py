"""The spread of a policy gradient without a baseline, with a state's value taken off, and by GAE."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from proximo.algorithms import PPO
from proximo.algorithms.base import Transitions
from proximo.control.training.training import Training
from proximo.core.advantages import gae
from proximo.core.statistics import weighted_mean
from proximo.lab.experiment import Claim, Experiment, Row
from proximo.lab.policies import iterate, settings, training

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TASK, GAMMA = "CartPole-v1", 0.99
JUDGED: Mapping[str, tuple[float, bool]] = {
    "returns": (1.0, False),
    "returns less V(s)": (1.0, True),
    "GAE, λ = 0.9": (0.9, True),
}
"""λ, and whether the state's value is taken off."""
AGAIN = "returns, again"


class Baseline(Experiment):
    """See `texts/baseline.md`."""

    name: ClassVar[str] = "baseline"

    def arms(self) -> list[str]:
        """The ways to judge an action."""
        return [*JUDGED, AGAIN]

    def measure(self, arm: str, seed: int) -> dict[str, Any]:
        """`variance` of the gradient in units of that with plain returns; of `AGAIN`, one half's by the other's."""
        return {"variance": _variances(seed, self.quick)[arm]}

    def claims(self) -> list[Claim]:
        """How many times the variance falls."""
        return [
            Claim(
                "Taking V(s) off lowers the variance to less than half.",
                lambda arms: 1 / arms["returns less V(s)"]["variance"],
                2.0,
            ),
            Claim(
                "GAE lowers it further, to less than half of that.",
                lambda arms: arms["returns less V(s)"]["variance"] / arms["GAE, λ = 0.9"]["variance"],
                2.0,
            ),
            Claim(
                "One half of the rollouts has more than twice the variance of the other.",
                lambda arms: arms[AGAIN]["variance"],
                2.0,
                control=True,
            ),
        ]

    def draw(self, axes: "Axes", rows: Sequence[Row]) -> None:
        """The variance of each, a point for each seed."""
        for i, arm in enumerate(JUDGED):
            values = [row["variance"] for row in rows if row["arm"] == arm]
            axes.bar(i, float(np.mean(values)), color="#c8e1ff", width=0.6)
            axes.plot([i] * len(values), values, "o", color="#1f6feb", markersize=4)
        axes.set_xticks(range(len(JUDGED)), list(JUDGED))
        axes.set_yscale("log")
        axes.set_ylabel("variance of the gradient, plain returns = 1")


@dataclass(frozen=True)
class _Kept(PPO):
    """PPO that keeps the last rollout as its estimator saw it."""

    seen: ClassVar[list[Transitions]] = []

    def estimate(self, rollout: Transitions) -> tuple[Tensor, ...]:
        """As PPO."""
        self.seen[:] = [rollout]
        return super().estimate(rollout)


@cache
def _variances(seed: int, quick: bool) -> dict[str, float]:
    """Of every arm, from the same rollouts."""
    trained, count, length = (4_000, 8, 128) if quick else (20_000, 64, 256)
    learner = settings(TASK, seed=seed, steps=10**6, learning_rate=2e-3)
    with training(learner) as begun:
        while begun.progress.steps < trained:
            iterate(begun)
        held = begun.state()
    still = settings(TASK, _Kept(minibatch_size=None), seed=seed, steps=10**6, rollout_length=length)
    with training(still, held) as begun:
        rollouts = [_gradients(begun) for _ in range(count)]
    stacks = {arm: np.stack([each[arm] for each in rollouts]) for arm in JUDGED}
    spread = {arm: float(stack.var(0, ddof=1).sum()) for arm, stack in stacks.items()}
    halves = [float(half.var(0, ddof=1).sum()) for half in np.array_split(stacks["returns"], 2)]
    return {arm: x / spread["returns"] for arm, x in spread.items()} | {AGAIN: halves[0] / halves[1]}


def _gradients(begun: Training) -> dict[str, np.ndarray]:
    """Gradients of one rollout by each way to judge an action, as vectors over the policy's weights."""
    batch = begun.estimate(begun.collector.collect())
    rollout = _Kept.seen[0]
    ends = rollout.terminated, rollout.done
    found = {}
    for name, (lam, less_value) in JUDGED.items():
        judged, returns = gae(rollout.rewards, rollout.values, rollout.next_values, *ends, gamma=GAMMA, lam=lam)
        if not less_value:
            judged = returns  # of λ = 1: the rewards that followed, and V where the rollout ends
        seen = begun.policy.evaluate(batch)
        objective = weighted_mean(seen.log_prob * judged.flatten(), batch.weight)
        parts = torch.autograd.grad(objective, begun.optimizer.parameters, allow_unused=True)
        found[name] = torch.cat([g.flatten() for g in parts if g is not None]).numpy()
    return found
