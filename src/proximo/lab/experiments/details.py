"""A small factorial over details of the code, on any task, with common seeds: `proximo lab ablate`."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from proximo.errors import UserError
from proximo.lab.experiment import Claim, Experiment, Judged, Row
from proximo.lab.factorial import LEVELS, changed, design, found, short
from proximo.lab.policies import iterate, settings, training
from proximo.lab.statistics import Verdict

if TYPE_CHECKING:
    from matplotlib.axes import Axes

USUAL = (
    "value_clip",
    "recompute_advantages",
    "normalize_advantages",
    "max_grad_norm",
    "orthogonal",
    "adam_epsilon",
    "learning_rate",
)
SEEDS = "other seeds"
"""A factor that changes nothing but the seeds: the control."""
LEAST = 0.05


class Details(Experiment):
    """See `texts/details.md`.

    Args:
        quick: seconds instead of minutes.
        environment: a task.
        details: names of settings, all of their path (`update.value_clip`) or its end (`value_clip`); those of `USUAL`
            if None, or three of them if quick.
        steps: of each run.

    Raises:
        UserError: there is no such setting, or one stands twice, or they are too many.
    """

    name: ClassVar[str] = "details"

    def __init__(
        self,
        *,
        quick: bool = False,
        environment: str = "CartPole-v1",
        details: Sequence[str] | None = None,
        steps: int | None = None,
    ) -> None:
        super().__init__(quick=quick)
        self.environment = environment
        self.details = found(details if details is not None else USUAL[:3] if quick else USUAL)
        self.steps = steps or (2_000 if quick else 60_000)
        self.design = design([*self.details, SEEDS])

    def arms(self) -> list[str]:
        """One for each row of the design."""
        return list(self.design)

    def measure(self, arm: str, seed: int) -> dict[str, Any]:
        """`start`, the return of the first episodes, and `score`, of those of the last half of the run."""
        levels = self.design[arm]
        config = settings(self.environment, seed=seed + 1000 * levels[SEEDS], steps=self.steps)
        for detail in self.details:
            config = changed(config, detail, levels[detail])
        returns: list[float] = []
        late: list[float] = []
        with training(config) as begun:
            while begun.progress.steps < self.steps:
                _, mean = iterate(begun)
                if mean is not None:
                    (late if begun.progress.steps > self.steps / 2 and returns else returns).append(mean)
        if not returns:
            raise UserError(f"no episode of {self.environment} ended in {self.steps:,} steps: give more --steps")
        late = late or returns[-1:]
        return {"start": returns[0], "score": sum(late) / len(late), "levels": dict(levels)}

    def claims(self) -> list[Claim]:
        """Of each detail that it raises the return, and that it lowers it; of other seeds that they raise it."""
        both = []
        for detail in self.details:
            both.append(Claim(f"{short(detail)} raises the return.", self._effect(detail, 1), LEAST))
            both.append(Claim(f"{short(detail)} lowers the return.", self._effect(detail, -1), LEAST))
        return [*both, Claim("Other seeds alone raise the return.", self._effect(SEEDS, 1), LEAST, control=True)]

    def judged(self, rows: Sequence[Row]) -> list[Judged]:
        """In units of what was learnt: the mean return of all runs less that of their first episodes.

        Raises:
            UserError: nothing was.
        """
        learnt = float(np.mean([row["score"] for row in rows]) - np.mean([row["start"] for row in rows]))
        if learnt <= 0:
            raise UserError(f"nothing was learnt in {self.steps:,} steps of {self.environment}: give more --steps")
        return super().judged([{**row, "score": row["score"] / learnt} for row in rows])

    def shown(self, judged: Sequence[Judged]) -> str:
        """A Markdown table, one row for each detail."""
        head = ("detail", "without", "with", "effect of having it", "95 % interval", "verdict")
        rows = [head, ("---",) * len(head)]
        words = {("supported", "not supported"): "better with it", ("not supported", "supported"): "worse with it"}
        for i, detail in enumerate(self.details):
            up, down = judged[2 * i].verdict, judged[2 * i + 1].verdict
            said = (up.word, down.word)
            word = words.get(said, "undecided" if "undecided" in said else "no difference that matters")
            levels = (str(value).lower() for value in LEVELS[detail])
            rows.append((f"`{detail}`", *levels, *_numbers(up), word))
        last = judged[-1].verdict
        rows.append((f"Control, which must not be supported: {SEEDS}", "", "", *_numbers(last), last.word))
        return "\n".join(f"| {' | '.join(row)} |" for row in rows)

    def draw(self, axes: "Axes", rows: Sequence[Row]) -> None:
        """The effect of each factor, with its interval."""
        judged = self.judged(rows)
        verdicts = [*(each.verdict for each in judged[:-1:2]), judged[-1].verdict]
        for i, verdict in enumerate(verdicts):
            colour = "#8c959f" if i == len(self.details) else "#1f6feb"
            axes.plot([verdict.low, verdict.high], [i, i], color=colour)
            axes.plot(verdict.effect, i, "o", color=colour)
        axes.axvspan(-LEAST, LEAST, color="#eaeef2")
        axes.set_yticks(range(len(verdicts)), [*(short(detail) for detail in self.details), SEEDS])
        axes.invert_yaxis()
        axes.set_xlabel(f"effect on the return, what was learnt = 1 ({self.environment})")

    def _effect(self, factor: str, sign: int) -> Callable[[Mapping[str, Row]], float]:
        def effect(arms: Mapping[str, Row]) -> float:
            sides: tuple[list[float], list[float]] = ([], [])
            for arm, levels in self.design.items():
                sides[levels[factor]].append(float(arms[arm]["score"]))
            return sign * float(np.mean(sides[1]) - np.mean(sides[0]))

        return effect


def _numbers(verdict: Verdict) -> tuple[str, str]:
    return f"{verdict.effect:+.3f}", f"{verdict.low:+.3f} to {verdict.high:+.3f}"
