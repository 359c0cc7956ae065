"""RLHF with and without the clip at rising learning rates: what is lost, and how fast."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from proximo.lab.experiment import Claim, Experiment, Row
from proximo.lab.language.runs import Ran, movies, ran, words

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WITH, WITHOUT, ALONE = "clip", "no clip", "clip, again"
FACTORS = (1, 4, 16)
"""Times the demo's learning rate, 3e-4; of the quick form, times 1e-3."""


class Collapse(Experiment):
    """See `texts/collapse.md`."""

    name: ClassVar[str] = "collapse"
    seeds: ClassVar[int] = 2

    def arms(self) -> list[str]:
        """With and without the clip, and once more with it."""
        return [WITH, WITHOUT, ALONE]

    def measure(self, arm: str, seed: int) -> dict[str, Any]:
        """Of each factor: `lost`, whether the run ended below its start or broke off; `variety` and `kl`."""
        task = words(seed) if self.quick else movies(self.folder.parent / "movies")
        factors = FACTORS[1:] if self.quick else FACTORS
        update = {"epochs": 4, "minibatch_size": 32, "target_kl": None, **({"clip": None} if arm == WITHOUT else {})}
        seen = [
            ran(
                task,
                self.run_folder(f"{arm.replace(' ', '')}-{factor}-{seed}"),
                seed=seed + 1000 * (arm == ALONE),
                learning_rate=(1e-3 if self.quick else 3e-4) * factor,
                responses=320,
                judge="",
                samples=0,
                update={**task.settings.get("update", {}), **update},
            )
            for factor in factors
        ]
        return {
            "factors": list(factors),
            "lost": [float(_lost(each)) for each in seen],
            "variety": [_last(each, "distinct_2") / _first(each, "distinct_2") for each in seen],
            "kl": [max(each.column("approx_kl"), default=0.0) for each in seen],
            "score": [_last(each, "score") - _first(each, "score") for each in seen],
            "ended": [each.ended for each in seen],
        }

    def claims(self) -> list[Claim]:
        """What the clip holds; means over the factors."""
        return [
            Claim(
                "Without the clip the largest KL of an update is more than twice as high (mean over the factors).",
                lambda arms: _mean(arms[WITHOUT], "kl") / max(1e-9, _mean(arms[WITH], "kl")),
                2.0,
            ),
            Claim(
                "Without the clip the score gains less, by more than 0.2 deviations (mean over the factors).",
                lambda arms: _mean(arms[WITH], "score") - _mean(arms[WITHOUT], "score"),
                0.2,
            ),
            Claim(
                "Without the clip more variety is lost, by a tenth of what was there (mean over the factors).",
                lambda arms: _mean(arms[WITH], "variety") - _mean(arms[WITHOUT], "variety"),
                0.1,
            ),
            Claim(
                "Without the clip a larger share of the runs is lost, by more than 0.2.",
                lambda arms: _mean(arms[WITHOUT], "lost") - _mean(arms[WITH], "lost"),
                0.2,
            ),
            Claim(
                "The clip, with other random numbers, has more than twice the largest KL of the clip.",
                lambda arms: _mean(arms[ALONE], "kl") / max(1e-9, _mean(arms[WITH], "kl")),
                2.0,
                control=True,
            ),
        ]

    def draw(self, axes: "Axes", rows: Sequence[Row]) -> None:
        """The score's rise over the factor, a point for each seed and a line through the means."""
        for arm, colour in ((WITH, "#1f6feb"), (WITHOUT, "#d1572c")):
            here = [row for row in rows if row["arm"] == arm]
            for row in here:
                axes.plot(row["factors"], row["score"], "o", color=colour, alpha=0.35, markersize=4)
            means = [sum(column) / len(column) for column in zip(*(row["score"] for row in here), strict=True)]
            axes.plot(here[0]["factors"], means, color=colour, label=arm)
        axes.axhline(0.0, color="grey", lw=0.6)
        axes.set_xscale("log")
        axes.set_xlabel("learning rate, times the usual one")
        axes.set_ylabel("rise of the score, deviations")
        axes.legend(frameon=False)


def _lost(seen: Ran) -> bool:
    """Whether a run broke off, or ended below where it began."""
    return bool(seen.ended) or _last(seen, "score") < _first(seen, "score")


def _first(seen: Ran, name: str) -> float:
    return seen.column(name)[0]


def _last(seen: Ran, name: str) -> float:
    """Mean of the last two iterations."""
    values = seen.column(name)[-2:]
    return sum(values) / len(values)


def _mean(row: Row, name: str) -> float:
    return sum(map(float, row[name])) / len(row[name])
