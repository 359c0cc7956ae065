"""Where samples sit in the clip range while a rollout is used, and what the minimum is for."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from proximo.lab.clip_range import Looked
from proximo.lab.experiment import Claim, Experiment, Row
from proximo.lab.policies import iterate, settings, training

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TASK, BEST, CLIP, EPOCHS = "CartPole-v1", 500.0, 0.1, 10
MINIMUM, PLAIN, AGAIN = "minimum", "plain clip", "minimum, again"
GOOD, BAD = 0, 1
"""Index of samples with a positive advantage, and of those with a negative one."""


class Ratio(Experiment):
    """See `texts/ratio.md`."""

    name: ClassVar[str] = "ratio"

    def arms(self) -> list[str]:
        """With the minimum and without, and once more with it."""
        return [MINIMUM, PLAIN, AGAIN]

    def measure(self, arm: str, seed: int) -> dict[str, Any]:
        """`score` (share of the best return); for each epoch `outside`, `cut` and `astray` by sign; `missing`."""
        steps = 2_000 if self.quick else 60_000
        seed = seed + 1000 * (arm == AGAIN)
        algorithm = Looked(clip=CLIP, epochs=EPOCHS, minibatch_size=128, minimum=arm != PLAIN)
        late: list[float] = []
        looks: list[list[dict[str, Any]]] = []
        with training(settings(TASK, algorithm, seed=seed, steps=steps, learning_rate=2e-3)) as begun:
            while begun.progress.steps < steps:
                _, mean = iterate(begun)
                looks.append(list(Looked.looks))
                if mean is not None and begun.progress.steps > steps / 2:
                    late.append(mean)
        found = {name: np.mean([[x[name] for x in update] for update in looks], 0) for name in looks[0][0]}
        score = sum(late) / len(late) / BEST if late else 0.0
        return {"score": score, **{name: array.tolist() for name, array in found.items()}}

    def claims(self) -> list[Claim]:
        """What leaves the range and what is cut of it, and the minimum beside plain clipping."""
        return [
            Claim(
                "More samples are outside the range after the last epoch than after the first.",
                lambda arms: _both(arms[MINIMUM], "outside", -1) - _both(arms[MINIMUM], "outside", 0),
                0.05,
            ),
            Claim(
                "A larger share of good actions is cut than of bad ones.",
                lambda arms: arms[MINIMUM]["cut"][-1][GOOD] - arms[MINIMUM]["cut"][-1][BAD],
                0.02,
            ),
            Claim(
                "Of the samples outside, more than a tenth went against their advantage.",
                lambda arms: _both(arms[MINIMUM], "astray", -1) / max(_both(arms[MINIMUM], "outside", -1), 1e-9),
                0.1,
            ),
            Claim(
                "What they add to the gradient after the last epoch is longer than a tenth of it.",
                lambda arms: float(arms[MINIMUM]["missing"][-1]),
                0.1,
            ),
            Claim(
                "With plain clipping more samples end up there.",
                lambda arms: _both(arms[PLAIN], "astray", -1) - _both(arms[MINIMUM], "astray", -1),
                0.01,
            ),
            Claim(
                "The return is higher with the minimum than with plain clipping.",
                lambda arms: arms[MINIMUM]["score"] - arms[PLAIN]["score"],
                0.05,
            ),
            Claim(
                "The return is higher with the minimum than with the minimum, with other seeds.",
                lambda arms: arms[MINIMUM]["score"] - arms[AGAIN]["score"],
                0.05,
                control=True,
            ),
        ]

    def draw(self, axes: "Axes", rows: Sequence[Row]) -> None:
        """Shares over the epochs, means over the seeds: cut, by sign, and astray, by arm."""
        epochs = range(1, EPOCHS + 1)
        lines = (
            (MINIMUM, "cut", [GOOD], "#1f6feb", "cut, good actions"),
            (MINIMUM, "cut", [BAD], "#d1572c", "cut, bad actions"),
            (MINIMUM, "astray", [GOOD, BAD], "#2da44e", "astray, minimum"),
            (PLAIN, "astray", [GOOD, BAD], "#8250df", "astray, plain clip"),
        )
        for arm, what, signs, colour, label in lines:
            curves = np.array([row[what] for row in rows if row["arm"] == arm])[:, :, signs].mean(2)
            axes.fill_between(epochs, curves.min(0), curves.max(0), color=colour, alpha=0.15)
            axes.plot(epochs, curves.mean(0), color=colour, label=label)
        axes.set_xlabel("epoch over the same rollout")
        axes.set_ylabel("share of samples")
        axes.legend(frameon=False)


def _both(row: Mapping[str, Any], what: str, epoch: int) -> float:
    """Mean of the two signs, of which there are about as many."""
    good, bad = row[what][epoch]
    return (float(good) + float(bad)) / 2
