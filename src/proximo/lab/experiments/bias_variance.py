"""Advantages by GAE beside the truth, which is sampled from saved states: bias and variance apart."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch

from proximo.control.loading import policy_from
from proximo.core.advantages import gae
from proximo.lab.continuations import Paths, Robot, Values, World, follow, passed_through, sampled_returns
from proximo.lab.experiment import Claim, Experiment, Row
from proximo.lab.policies import iterate, settings, training

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TASK, GAMMA = "InvertedPendulum-v5", 0.95
LAMBDAS = (0.0, 0.5, 0.9, 0.95, 0.99, 1.0)
PERFECT, LEARNT, POOR = "perfect", "learnt", "poor"
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
                "With the learnt critic, one estimate errs less with λ = 0.95 than with λ = 0 and than with λ = 1.",
                lambda arms: _gain(arms[LEARNT], 1),
                0.1,
            ),
            Claim(
                "So does the mean of 64 independent estimates.",
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
        """Variance over squared bias: a line for each critic, a point for each λ, means over the seeds."""
        for arm, colour in COLOURS.items():
            here = [row for row in rows if row["arm"] == arm]
            bias, variance = (np.mean([row[name] for row in here], 0).clip(1e-2) for name in ("bias", "variance"))
            axes.plot(bias, variance, "o-", color=colour, markersize=4, label=f"{arm} critic")
            for lam, x, y in zip(LAMBDAS, bias, variance, strict=True):
                axes.annotate(f"{lam:g}", (x, y), fontsize=7, color=colour, xytext=(4, 3), textcoords="offset points")
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xlabel("squared bias, rewards² (drawn as 0.01 where less)")
        axes.set_ylabel("variance, rewards²")
        axes.legend(frameon=False)


@dataclass(frozen=True)
class Plan:
    """How much is sampled."""

    states: int = 20
    actions: int = 2
    """In each state."""
    paths: int = 128
    """From each state and action."""
    length: int = 80
    """Steps of these, and of what V is sampled from: the rest is discounted to 2 %."""
    perfect: tuple[int, int] = (5, 30)
    """The same two for the perfect critic, whose V is sampled at every state on the way."""
    truth: int = 150
    """Continuations from the state that an action leads to, and as many for the perfect critic's V of it."""
    inner: int = 3
    """Continuations from each later state on the way."""


def study(world: World, critics: Mapping[str, Values], starts: np.ndarray, plan: Plan) -> dict[str, dict[str, Any]]:
    """Bias and variance with each critic, and with the perfect one.

    Args:
        world: whose step follows from state and action without chance: then A(s, a) = r + gamma V(s') - V(s).
        critics: by name.
        starts: states `[plan.states, ...]`.
        plan: how much is sampled.
    """
    states = starts.repeat(plan.actions, 0)
    actions = world.act(states)
    step = follow(world, states, 1, actions)
    sampled = sampled_returns(world, step.states[1], 2 * plan.truth, plan.length, GAMMA)
    sampled[step.terminated[0]] = 0.0
    halves = sampled[:, : plan.truth].mean(1), sampled[:, plan.truth :].mean(1)
    doubt = GAMMA**2 * float(sampled.var(1, ddof=1).mean()) / plan.truth
    # V(s) is the same number for all actions of a state, which `errors` takes off.
    truth = (step.rewards[0] + GAMMA * halves[0]).reshape(plan.states, plan.actions)

    def paths(count: int, length: int) -> Paths:
        return follow(world, states.repeat(count, 0), length, actions.repeat(count, 0))

    many = paths(plan.paths, plan.length)
    found = {
        name: errors(np.stack([values(x) for x in many.states]), many, truth, doubt) for name, values in critics.items()
    }
    few = paths(*plan.perfect)
    values = np.zeros(few.states.shape[:2])
    values[1] = halves[1].repeat(plan.perfect[0])
    later = np.vstack([np.zeros_like(few.terminated[:2]), ~few.terminated[1:]])
    values[later] = sampled_returns(world, few.states[later], plan.inner, plan.length, GAMMA).mean(1)
    return {PERFECT: errors(values, few, truth, doubt, doubt), **found}


def errors(values: np.ndarray, paths: Paths, truth: np.ndarray, doubt: float, own: float = 0.0) -> dict[str, Any]:
    """Bias and variance of the first step's advantage, over many paths from the same states and actions.

    What an estimate is wrong by for all actions of a state alike is a baseline and changes no gradient on average, so
    it is taken off; what sampling adds to a squared mean is taken off too, so a squared bias may come out below 0.

    Args:
        values: the critic's, `[L + 1, P]`.
        paths: of states, actions and repetitions, in this order.
        truth: `[states, actions]`, the advantage but for a number of each state.
        doubt: variance of `truth` by sampling.
        own: of the critic's value of the state that the first step leads to, discounted, where that is sampled.

    Returns:
        `bias` (squared) and `variance`, for each of `LAMBDAS`, and `signal`, the variance of the truth over the actions
        of a state; all in squared rewards.
    """
    ends = torch.from_numpy(paths.terminated)
    rewards, now, after = (torch.from_numpy(x) for x in (paths.rewards, values[:-1], values[1:]))
    found: dict[str, Any] = {"signal": float(truth.var(1, ddof=1).mean() - doubt), "bias": [], "variance": []}
    for lam in LAMBDAS:
        first = gae(rewards, now, after, ends, ends, gamma=GAMMA, lam=lam)[0][0].numpy().reshape(*truth.shape, -1)
        spread = first.var(2, ddof=1).mean()
        off = (first.mean(2) - truth).var(1, ddof=1).mean()
        noise = spread / first.shape[2] + doubt + (1 - lam) ** 2 * own
        found["bias"].append(float(off - noise))
        found["variance"].append(float(spread))
    return found


@cache
def _measured(seed: int, quick: bool) -> dict[str, dict[str, Any]]:
    """Of every critic, with the same policy, states and actions."""
    plan = Plan(6, 2, 16, 40, (3, 10), 40, 2) if quick else Plan()
    with training(settings(TASK, seed=seed, steps=10**6, gamma=GAMMA)) as begun:
        untrained = policy_from(*begun.state())
        while begun.mean_return is None or begun.mean_return < (TRAINED / 2 if quick else TRAINED):
            iterate(begun)
        robot, scale = Robot(TASK, begun.policy, seed), float(begun.scaler.moments.scale())
        critics = {LEARNT: robot.critic(begun.policy, scale), POOR: robot.critic(untrained, scale)}
        starts = passed_through(robot, robot.starts(plan.states, seed), int(TRAINED), seed)
        return study(robot, critics, starts, plan)


def _of(row: Mapping[str, Any], what: str, lam: float) -> float:
    return float(row[what][LAMBDAS.index(lam)])


def _gain(row: Mapping[str, Any], samples: int) -> float:
    """How much less the mean of some estimates errs with λ = 0.95 than with the better of 0 and 1, squared."""
    middle, *ends = (_of(row, "bias", lam) + _of(row, "variance", lam) / samples for lam in (0.95, 0.0, 1.0))
    return min(ends) - middle
