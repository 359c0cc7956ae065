"""One oversized update of a competent policy, with and without the clip."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar

from proximo.lab.experiment import Claim, Experiment, Row
from proximo.lab.policies import Held, iterate, mean_return, settings, training

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TASK = "CartPole-v1"
BEST = 500.0
COMPETENT = 450.0
"""Mean return of the last 100 episodes at which a policy is taken."""
RATE = 2e-3
"""The tuned preset's first learning rate."""
WITH, WITHOUT, ALONE = "clip", "no clip", "clip, again"


class Cliff(Experiment):
    """See `texts/cliff.md`."""

    name: ClassVar[str] = "cliff"

    factors: ClassVar[Sequence[int]] = (1, 3, 10, 30, 100)

    def arms(self) -> list[str]:
        """With and without the clip, and once more with it."""
        return [WITH, WITHOUT, ALONE]

    def measure(self, arm: str, seed: int) -> dict[str, Any]:
        """`drop` and `recovery` for each factor, as shares of the best return and as iterations."""
        held, before = _competent(seed, 4_000 if self.quick else 60_000)
        factors = (1, 30) if self.quick else self.factors
        after = [
            _after(held, seed + (1000 if arm == ALONE else 0), factor, arm != WITHOUT, self.quick) for factor in factors
        ]
        return {
            "before": before,
            "factors": list(factors),
            "drop": [(before - mean) / BEST for mean, _, _ in after],
            "recovery": [iterations for _, iterations, _ in after],
            "kl": [kl for _, _, kl in after],
        }

    def claims(self) -> list[Claim]:
        """What the clip saves, a mean over the factors; the control compares the clip with itself."""
        return [
            Claim(
                "Without the clip one update costs more of the best return (mean over the factors).",
                lambda arms: _mean(arms[WITHOUT], "drop") - _mean(arms[WITH], "drop"),
                0.05,
            ),
            Claim(
                "Without the clip it takes more iterations to come back (mean over the factors).",
                lambda arms: _mean(arms[WITHOUT], "recovery") - _mean(arms[WITH], "recovery"),
                0.5,
            ),
            Claim(
                "With the clip one update at 100 times the learning rate still costs more than half of the return.",
                lambda arms: float(arms[WITH]["drop"][-1]),
                0.5,
            ),
            Claim(
                "The clip saves more than the clip, with other episodes (mean over the factors).",
                lambda arms: _mean(arms[ALONE], "drop") - _mean(arms[WITH], "drop"),
                0.05,
                control=True,
            ),
        ]

    def draw(self, axes: "Axes", rows: Sequence[Row]) -> None:
        """Return after the update over the factor, a point for each seed and a line through the means."""
        for arm, colour in ((WITH, "#1f6feb"), (WITHOUT, "#d1572c")):
            here = [row for row in rows if row["arm"] == arm]
            factors = here[0]["factors"]
            points = [[row["before"] - BEST * drop for drop in row["drop"]] for row in here]
            for values in points:
                axes.plot(factors, values, "o", color=colour, alpha=0.35, markersize=4)
            means = [sum(column) / len(column) for column in zip(*points, strict=True)]
            axes.plot(factors, means, color=colour, label=arm)
        axes.set_xscale("log")
        axes.set_xlabel("learning rate of one update, times the preset's")
        axes.set_ylabel("return after it")
        axes.legend(frameon=False)


@cache
def _competent(seed: int, most: int) -> tuple[Held, float]:
    """A policy at a return of 450 or after `most` steps, and its mean return."""
    config = settings(TASK, seed=seed, steps=200_000)
    with training(config) as begun:
        while begun.progress.steps < most:
            iterate(begun)
            seen = begun.recent
            if seen.mean_return is not None and len(seen.returns) >= 50 and seen.mean_return >= COMPETENT:
                break
        return begun.state(), mean_return(begun, seed)


def _after(held: Held, seed: int, factor: int, clipped: bool, quick: bool) -> tuple[float, int, float]:
    """Mean return after one update with these settings, iterations to come back, and the update's exact KL."""
    usual = settings(TASK, seed=seed, steps=200_000)
    update = usual.update if clipped else replace(usual.update, clip=None)
    with training(replace(usual, learning_rate=RATE * factor, update=update), held) as begun:
        row, _ = iterate(begun)
        after = mean_return(begun, seed)
        point = begun.state()
    most = 3 if quick else 15
    with training(usual, point) as begun:
        for i in range(most):
            if (mean_return(begun, seed + i) if i else after) >= COMPETENT:
                return after, i, float(row["exact_kl"] or 0.0)
            iterate(begun)
    return after, most, float(row["exact_kl"] or 0.0)


def _mean(row: Mapping[str, Any], name: str) -> float:
    return sum(map(float, row[name])) / len(row[name])
