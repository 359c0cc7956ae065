"""How wide the band of learning rates is in which an algorithm learns."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from proximo.algorithms import A2C, PPO, REINFORCE
from proximo.core.settings import UpdateSettings
from proximo.lab.experiment import Claim, Experiment, Row
from proximo.lab.policies import iterate, settings, training

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TASK, BEST = "CartPole-v1", 500.0
ALGORITHMS: Mapping[str, UpdateSettings] = {
    "REINFORCE": REINFORCE(),
    "A2C": A2C(),
    "PPO": PPO(epochs=5, minibatch_size=128, clip=0.1),
    "PPO, again": PPO(epochs=5, minibatch_size=128, clip=0.1),
}
COLOURS = {"REINFORCE": "#8250df", "A2C": "#d1572c", "PPO": "#1f6feb"}


class StepSize(Experiment):
    """See `texts/step-size.md`."""

    name: ClassVar[str] = "step-size"

    def arms(self) -> list[str]:
        """The algorithms."""
        return list(ALGORITHMS)

    def rates(self) -> list[float]:
        """Learning rates, half a decade apart."""
        return [1e-4, 1e-3, 1e-2] if self.quick else [10 ** (-5 + i / 2) for i in range(11)]

    def measure(self, arm: str, seed: int) -> dict[str, Any]:
        """`returns` over the learning rates, and `band`, decades."""
        seed = seed + 1000 * arm.endswith("again")
        found = [_learnt(ALGORITHMS[arm], seed, rate, 2_000 if self.quick else 40_000) for rate in self.rates()]
        step = 1.0 if self.quick else 0.5
        return {"rates": self.rates(), "returns": found, "band": step * sum(x > BEST / 2 for x in found)}

    def claims(self) -> list[Claim]:
        """PPO's band beside the others', and beside its own."""
        return [
            Claim("PPO's band is wider than A2C's.", lambda arms: arms["PPO"]["band"] - arms["A2C"]["band"], 0.5),
            Claim(
                "PPO's band is wider than REINFORCE's.",
                lambda arms: arms["PPO"]["band"] - arms["REINFORCE"]["band"],
                0.5,
            ),
            Claim(
                "PPO's band is wider than PPO's, with other seeds.",
                lambda arms: arms["PPO"]["band"] - arms["PPO, again"]["band"],
                0.5,
                control=True,
            ),
        ]

    def draw(self, axes: "Axes", rows: Sequence[Row]) -> None:
        """Return over the learning rate: means, and the range over seeds."""
        for arm, colour in COLOURS.items():
            here = [row for row in rows if row["arm"] == arm]
            columns = list(zip(*(row["returns"] for row in here), strict=True))
            rates = here[0]["rates"]
            axes.fill_between(rates, [min(c) for c in columns], [max(c) for c in columns], color=colour, alpha=0.15)
            axes.plot(rates, [sum(c) / len(c) for c in columns], color=colour, label=arm)
        axes.axhline(BEST / 2, color="#8c959f", linewidth=0.8, linestyle="--")
        axes.set_xscale("log")
        axes.set_xlabel("learning rate")
        axes.set_ylabel("return, last 100 episodes")
        axes.legend(frameon=False)


def _learnt(algorithm: UpdateSettings, seed: int, rate: float, steps: int) -> float:
    config = settings(TASK, algorithm, seed=seed, steps=steps, learning_rate=rate)
    with training(config) as begun:
        while begun.progress.steps < steps:
            iterate(begun)
        return float(begun.recent.mean_return or 0.0)
