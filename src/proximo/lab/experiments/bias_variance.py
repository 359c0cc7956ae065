"""Advantages by GAE beside the truth, which is sampled from saved states: bias and variance apart."""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from proximo.control.loading import policy_from
from proximo.lab.advantage_errors import LAMBDAS, PERFECT, Plan, study
from proximo.lab.continuations import Robot, passed_through
from proximo.lab.experiment import Claim, Experiment, Row
from proximo.lab.policies import iterate, settings, training

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TASK, GAMMA = "InvertedPendulum-v5", 0.95
LEARNT, POOR = "learnt", "poor"
COLOURS = {PERFECT: "#2da44e", LEARNT: "#1f6feb", POOR: "#d1572c"}
TRAINED = 40.0
"""Mean return at which the policy is taken: it falls often enough that states differ in what they are worth."""


class BiasVariance(Experiment):
    """See `texts/bias-variance.md`."""

    name: ClassVar[str] = "bias-variance"

    def arms(self) -> list[str]:
        """The critics."""
        return [PERFECT, LEARNT, POOR]

    def measure(self, arm: str, seed: int) -> dict[str, Any]:
        """For each λ `bias` (squared) and `variance`; `signal`, the true advantages' variance; squared rewards."""
        return _measured(seed, self.quick)[arm]

    def claims(self) -> list[Claim]:
        """What λ trades, with which critic."""
        return [
            Claim(
                "With the learnt critic, λ = 1 has more than twice the variance of λ = 0.9.",
                lambda arms: _of(arms[LEARNT], "variance", 1.0) / _of(arms[LEARNT], "variance", 0.9),
                2.0,
            ),
            Claim(
                "With the learnt critic, λ = 0 has more bias than λ = 0.95.",
                lambda arms: _of(arms[LEARNT], "bias", 0.0) - _of(arms[LEARNT], "bias", 0.95),
                0.1,
            ),
            Claim(
                "With the learnt critic, one estimate errs less with λ = 0.95 than with 0 and than with 1.",
                lambda arms: _gain(arms[LEARNT], 1),
                0.1,
            ),
            Claim(
                "With the learnt critic, the mean of 64 estimates errs less with λ = 0.95 than with 0 and than with 1.",
                lambda arms: _gain(arms[LEARNT], 64),
                0.1,
            ),
            Claim(
                "With the poor critic, λ = 0 has more bias than λ = 1.",
                lambda arms: _of(arms[POOR], "bias", 0.0) - _of(arms[POOR], "bias", 1.0),
                0.1,
            ),
            Claim(
                "At λ = 0 the learnt critic has more bias than the perfect one.",
                lambda arms: _of(arms[LEARNT], "bias", 0.0) - _of(arms[PERFECT], "bias", 0.0),
                0.1,
            ),
            Claim(
                "With the perfect critic, λ = 0 is biased.",
                lambda arms: _of(arms[PERFECT], "bias", 0.0),
                0.1,
                control=True,
            ),
        ]

    def draw(self, axes: "Axes", rows: Sequence[Row]) -> None:
        """Both over λ, means over the seeds: squared bias as a solid line, variance as a dashed one."""
        places = range(len(LAMBDAS))
        for arm, colour in COLOURS.items():
            here = [row for row in rows if row["arm"] == arm]
            bias, variance = (np.mean([row[name] for row in here], 0) for name in ("bias", "variance"))
            axes.plot(places, bias, "o-", color=colour, markersize=4, label=f"{arm} critic")
            axes.plot(places, variance, "--", color=colour)
        axes.set_yscale("symlog", linthresh=0.1)
        axes.axhline(0.0, color="#8c959f", linewidth=0.8)
        axes.set_xticks(places, [f"{lam:g}" for lam in LAMBDAS])
        axes.set_xlabel("λ (solid: squared bias, dashed: variance)")
        axes.set_ylabel("squared rewards")
        axes.legend(frameon=False)


@cache
def _measured(seed: int, quick: bool) -> dict[str, dict[str, Any]]:
    """Of every critic, with the same policy, states and actions."""
    plan = Plan(6, 2, 16, 40, (3, 10), 40, 2) if quick else Plan()
    with training(settings(TASK, seed=seed, steps=10**6, gamma=GAMMA)) as begun:
        untrained = policy_from(*begun.state())
        while begun.recent.mean_return is None or begun.recent.mean_return < (TRAINED / 2 if quick else TRAINED):
            iterate(begun)
        robot, scale = Robot(TASK, begun.policy, seed), float(begun.scaler.moments.scale())
        critics = {LEARNT: robot.critic(begun.policy, scale), POOR: robot.critic(untrained, scale)}
        starts = passed_through(robot, robot.starts(plan.states, seed), int(TRAINED), seed)
        return study(robot, critics, starts, plan, GAMMA)


def _of(row: Mapping[str, Any], what: str, lam: float) -> float:
    return float(row[what][LAMBDAS.index(lam)])


def _gain(row: Mapping[str, Any], samples: int) -> float:
    """How much less the mean of some estimates errs with λ = 0.95 than with the better of 0 and 1, squared."""
    middle, *ends = (_of(row, "bias", lam) + _of(row, "variance", lam) / samples for lam in (0.95, 0.0, 1.0))
    return min(ends) - middle
