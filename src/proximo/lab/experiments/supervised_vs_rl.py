"""The same model and as many responses by supervised fine-tuning and by PPO: how steady each is."""

from collections.abc import Sequence
from itertools import pairwise
from statistics import median
from typing import TYPE_CHECKING, Any, ClassVar

from proximo.lab.experiment import Claim, Experiment, Row
from proximo.lab.language.gradients import spread_of_gradients
from proximo.lab.language.runs import Task, movies, ran, words
from proximo.lab.language.supervised import Course, fine_tuned

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SUPERVISED, RL, AGAIN = "SFT", "PPO", "SFT, again"
TWINS = 2
"""Runs of each seed, which differ in their random numbers alone."""
BATCH = 32


class SupervisedVsRL(Experiment):
    """See `texts/supervised-vs-rl.md`."""

    name: ClassVar[str] = "supervised-vs-rl"
    seeds: ClassVar[int] = 3

    def arms(self) -> list[str]:
        """Both ways to learn, and the first one again."""
        return [SUPERVISED, RL, AGAIN]

    def measure(self, arm: str, seed: int) -> dict[str, Any]:
        """`apart`, how far twins end from each other; `spread` of the first gradient; `spikes`."""
        task = words(seed) if self.quick else movies(self.folder.parent / "movies")
        chances = [10 * seed + twin + 1000 * (arm == AGAIN) for twin in range(TWINS)]
        courses = [self._course(task, arm, chance) for chance in chances]
        return {
            "courses": [course.values for course in courses],
            "apart": apart([course.values for course in courses]),
            "spread": sum(course.spread for course in courses) / TWINS,
            "spikes": sum(spikes(course.values) for course in courses) / TWINS,
        }

    def _course(self, task: Task, arm: str, chance: int) -> Course:
        responses, rate = (384, 1e-3) if self.quick else (512, 2e-4)
        batches = 12 if self.quick else 8
        if arm != RL:
            steps = responses // BATCH
            return fine_tuned(task, seed=chance, steps=steps, batch=BATCH, learning_rate=rate, batches=batches)
        run = self.run_folder(str(chance))
        update = {"epochs": 1, "minibatch_size": BATCH}
        seen = ran(
            task,
            run,
            seed=chance,
            responses=responses,
            batch=BATCH,
            learning_rate=rate,
            warmup=0.0,
            update={**task.settings.get("update", {}), **update},
            judge="",
            samples=0,
        )
        return Course(seen.column("score"), spread_of_gradients(task, run, batches, at_its_start=True))

    def claims(self) -> list[Claim]:
        """How many times PPO is less steady."""
        return [
            Claim(
                "PPO's gradient has more than twice the relative variance of fine-tuning's.",
                lambda arms: float(arms[RL]["spread"]) / float(arms[SUPERVISED]["spread"]),
                2.0,
            ),
            Claim(
                "Twins of PPO end further apart, by more than 0.05 of their rise.",
                lambda arms: float(arms[RL]["apart"]) - float(arms[SUPERVISED]["apart"]),
                0.05,
            ),
            Claim(
                "PPO has more spikes: in more than 0.02 more of its steps.",
                lambda arms: float(arms[RL]["spikes"]) - float(arms[SUPERVISED]["spikes"]),
                0.02,
            ),
            Claim(
                "Fine-tuning, on rows in another order, has more than twice the relative variance of fine-tuning.",
                lambda arms: float(arms[AGAIN]["spread"]) / float(arms[SUPERVISED]["spread"]),
                2.0,
                control=True,
            ),
        ]

    def draw(self, axes: "Axes", rows: Sequence[Row]) -> None:
        """Every course, as a share of the mean rise of its arm."""
        for arm, colour in ((SUPERVISED, "#2da44e"), (RL, "#1f6feb")):
            label: str | None = arm
            for row in (row for row in rows if row["arm"] == arm):
                rise = abs(sum(_rise(course) for course in row["courses"]) / TWINS) or 1.0
                for course in row["courses"]:
                    steps = [BATCH * (i + 1) for i in range(len(course))]
                    shares = [(value - course[0]) / rise for value in course]
                    axes.plot(steps, shares, color=colour, lw=0.9, alpha=0.7, label=label)
                    label = None
        axes.set_xlabel("responses")
        axes.set_ylabel("rise, as a share of the whole")
        axes.legend(frameon=False)


def _third(values: Sequence[float], last: bool) -> float:
    """Mean of the first or the last third."""
    count = max(1, len(values) // 3)
    return sum(values[-count:] if last else values[:count]) / count


def _rise(values: Sequence[float]) -> float:
    return _third(values, last=True) - _third(values, last=False)


def apart(courses: Sequence[Sequence[float]]) -> float:
    """How far twins end from each other, as a share of their mean rise; at most 1."""
    ends = [_third(course, last=True) for course in courses]
    rise = abs(sum(map(_rise, courses)) / len(courses))
    return min(1.0, (max(ends) - min(ends)) / rise) if rise else 1.0


def spikes(values: Sequence[float]) -> float:
    """Share of the steps that fall by more than three times the median change of the whole course."""
    changes = [b - a for a, b in pairwise(values)]
    usual = median(abs(change) for change in changes)
    return sum(change < -3 * usual for change in changes) / len(changes)
