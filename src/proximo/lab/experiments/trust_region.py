"""Four ways to keep a policy near the one that acted, and what they cost."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

from proximo.algorithms import PPO, TRPO, PPOPenalty
from proximo.core.settings import UpdateSettings
from proximo.lab.experiment import Claim, Experiment, Row
from proximo.lab.policies import iterate, settings, training

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TASK, BEST = "CartPole-v1", 500.0
CLIPPED = PPO(clip=0.1, epochs=5, minibatch_size=128)
ALGORITHMS: Mapping[str, UpdateSettings] = {
    "clip": CLIPPED,
    "penalty, fixed": PPOPenalty(kl_target=None, kl_coefficient=3.0, epochs=5, minibatch_size=128),
    "penalty, adaptive": PPOPenalty(kl_target=0.01, epochs=5, minibatch_size=128),
    "TRPO": TRPO(max_kl=0.01),
    "nothing": replace(CLIPPED, clip=None),
    "clip, again": CLIPPED,
}
COLOURS = ("#1f6feb", "#2da44e", "#8250df", "#d1572c", "#57606a")


class TrustRegion(Experiment):
    """See `texts/trust-region.md`."""

    name: ClassVar[str] = "trust-region"

    def arms(self) -> list[str]:
        """The four, none of them, and the clip once more."""
        return list(ALGORITHMS)

    def measure(self, arm: str, seed: int) -> dict[str, Any]:
        """`score` (share of the best return), `kl` and `largest_kl`, `cost` (seconds of an update)."""
        steps = 2_000 if self.quick else 60_000
        seed = seed + 1000 * arm.endswith("again")
        config = settings(TASK, ALGORITHMS[arm], seed=seed, steps=steps, learning_rate=2e-3)
        late: list[float] = []
        divergences: list[float] = []
        spent = 0.0
        with training(config) as begun:
            while begun.progress.steps < steps:
                row, mean = iterate(begun)
                spent += float(row["seconds/update"])
                divergences.append(float(row["exact_kl"] or 0.0))
                if mean is not None and begun.progress.steps > steps / 2:
                    late.append(mean)
            iterations = begun.progress.iterations
        return {
            "score": sum(late) / len(late) / BEST if late else 0.0,
            "kl": sum(divergences) / len(divergences),
            "largest_kl": max(divergences),
            "cost": spent / iterations,
        }

    def claims(self) -> list[Claim]:
        """The clip beside TRPO in return and cost, beside nothing, and beside itself."""
        return [
            Claim(
                "TRPO's return is higher than the clip's.",
                lambda arms: arms["TRPO"]["score"] - arms["clip"]["score"],
                0.05,
            ),
            Claim(
                "An update of TRPO takes longer than one with the clip, by more than half of it.",
                lambda arms: arms["TRPO"]["cost"] / arms["clip"]["cost"] - 1,
                0.5,
            ),
            Claim(
                "The clip's return is higher than that of the same steps with nothing to hold them.",
                lambda arms: arms["clip"]["score"] - arms["nothing"]["score"],
                0.05,
            ),
            Claim(
                "The largest KL of an update with the clip is above TRPO's bound of 0.01.",
                lambda arms: arms["clip"]["largest_kl"],
                0.01,
            ),
            Claim(
                "The clip's return is higher than the clip's, with other seeds.",
                lambda arms: arms["clip"]["score"] - arms["clip, again"]["score"],
                0.05,
                control=True,
            ),
        ]

    def draw(self, axes: "Axes", rows: Sequence[Row]) -> None:
        """Return over the largest KL, a point for each seed."""
        for arm, colour in zip(ALGORITHMS, COLOURS, strict=False):
            here = [row for row in rows if row["arm"] == arm]
            axes.plot(
                [row["largest_kl"] for row in here], [BEST * row["score"] for row in here], "o", color=colour, label=arm
            )
        axes.axvline(0.01, color="#8c959f", linewidth=0.8, linestyle="--")
        axes.set_xscale("log")
        axes.set_xlabel("largest KL of an update, nats (dashed: TRPO's bound)")
        axes.set_ylabel("return, last half of the run")
        axes.legend(frameon=False)
