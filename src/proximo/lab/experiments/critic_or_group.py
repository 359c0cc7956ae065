"""PPO with a critic, RLOO and GRPO at equal samples and at equal seconds."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from proximo.lab.experiment import Claim, Experiment, Row
from proximo.lab.language.gradients import spread_of_gradients
from proximo.lab.language.runs import movies, ran, words

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PPO, RLOO, GRPO, AGAIN = "PPO", "RLOO", "GRPO", "PPO, again"
COLOURS = {PPO: "#1f6feb", RLOO: "#2da44e", GRPO: "#d1572c"}
ENOUGH = 0.1
"""Deviations of the judge's score that would matter."""


class CriticOrGroup(Experiment):
    """See `texts/critic-or-group.md`."""

    name: ClassVar[str] = "critic-or-group"
    seeds: ClassVar[int] = 2

    def arms(self) -> list[str]:
        """The algorithms, and PPO once more."""
        return [PPO, RLOO, GRPO, AGAIN]

    def measure(self, arm: str, seed: int) -> dict[str, Any]:
        """`score`, `judge` and `kl` over the run, `seconds_used`, and the `spread` of its gradient at the end."""
        task = words(seed) if self.quick else movies(self.folder.parent / "movies")
        algorithm = arm.partition(",")[0].lower()
        update: dict[str, Any] = {"epochs": 2, "minibatch_size": 32, "max_grad_norm": 1.0}
        update |= {"value_coefficient": 0.1} if algorithm == "ppo" else {"group": 4}
        run = self.run_folder(f"{arm.replace(' ', '')}-{seed}")
        seen = ran(
            task,
            run,
            algorithm=algorithm,
            seed=seed + 1000 * (arm == AGAIN),
            update=update,
            kl={"coefficient": 0.05},
            responses=512,
            learning_rate=1e-3 if self.quick else 3e-4,
            judge_every=2,
            samples=0,
        )
        judged = [(i, row) for i, row in enumerate(seen.rows) if row.get("judge") is not None]
        seconds = seen.seconds()
        return {
            "steps": [0, *(row["step"] for _, row in judged)],
            "clock": [0.0, *(seconds[i] for i, _ in judged)],
            "judge": [seen.results["judge_first"], *(row["judge"] for _, row in judged)],
            "score": seen.column("score"),
            "kl": seen.column("kl")[-1],
            "spread": spread_of_gradients(task, run, 4 if self.quick else 6),
        }

    def claims(self) -> list[Claim]:
        """Differences of the judge's score at the end, and at the time at which the fastest ends."""
        return [
            Claim(
                "At equal samples RLOO is judged higher than PPO, by more than 0.1 deviations.",
                lambda arms: _end(arms[RLOO]) - _end(arms[PPO]),
                ENOUGH,
            ),
            Claim(
                "At equal samples GRPO is judged higher than PPO, by more than 0.1 deviations.",
                lambda arms: _end(arms[GRPO]) - _end(arms[PPO]),
                ENOUGH,
            ),
            Claim(
                "At equal seconds RLOO is judged higher than PPO, by more than 0.1 deviations.",
                lambda arms: _at(arms[RLOO], _least(arms)) - _at(arms[PPO], _least(arms)),
                ENOUGH,
            ),
            Claim(
                "A run of RLOO takes less than 0.9 of the time of one of PPO (saved share).",
                lambda arms: 1 - float(arms[RLOO]["clock"][-1]) / float(arms[PPO]["clock"][-1]),
                0.1,
            ),
            Claim(
                "RLOO's gradient has more than twice the relative variance of PPO's.",
                lambda arms: float(arms[RLOO]["spread"]) / float(arms[PPO]["spread"]),
                2.0,
            ),
            Claim(
                "PPO's gradient, with other random numbers, has more than twice the relative variance of PPO's.",
                lambda arms: float(arms[AGAIN]["spread"]) / float(arms[PPO]["spread"]),
                2.0,
                control=True,
            ),
        ]

    def draw(self, axes: "Axes", rows: Sequence[Row]) -> None:
        """The judge over the responses, a line for each seed."""
        for row in rows:
            if row["arm"] in COLOURS:
                label = row["arm"] if row["seed"] == 0 else None
                axes.plot(row["steps"], row["judge"], color=COLOURS[row["arm"]], lw=1.2, label=label)
        axes.set_xlabel("responses")
        axes.set_ylabel("judge, deviations")
        axes.legend(frameon=False)


def _end(row: Row) -> float:
    """Rise of the judge's score: the mean of the last two measurements less the first."""
    return float(sum(row["judge"][-2:]) / 2 - row["judge"][0])


def _least(arms: Any) -> float:
    return min(float(arms[name]["clock"][-1]) for name in (PPO, RLOO, GRPO))


def _at(row: Row, seconds: float) -> float:
    """Rise of the judge's score at a time, on the line between two measurements."""
    clock, judged = row["clock"], row["judge"]
    for i in range(1, len(clock)):
        if clock[i] >= seconds:
            share = (seconds - clock[i - 1]) / (clock[i] - clock[i - 1])
            return float(judged[i - 1] + share * (judged[i] - judged[i - 1]) - judged[0])
    return float(judged[-1] - judged[0])
