"""Where samples sit in the clip range while a rollout is used, and what the minimum is for."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import log
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from proximo.algorithms import PPO
from proximo.core.batch import Batch, Evaluation
from proximo.core.objectives import clipped_surrogate
from proximo.core.update import NOISE, Gradient, Policy, Statistics, UpdateReport, UpdateTask, normalized
from proximo.lab.experiment import Claim, Experiment, Row
from proximo.lab.policies import iterate, settings, training

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TASK, BEST, CLIP, EPOCHS = "CartPole-v1", 500.0, 0.1, 10
MINIMUM, PLAIN, AGAIN = "minimum", "plain clip", "minimum, again"
GOOD, BAD = 0, 1
"""Index of samples with a positive advantage, and of those with a negative one."""


@dataclass(frozen=True)
class Looked(PPO):
    """PPO that looks at its whole rollout after each epoch."""

    minimum: bool = True
    """False clips the ratio alone: mean clamp(ratio, 1 - clip, 1 + clip) A."""
    looks: ClassVar[list[dict[str, Any]]] = []
    """Of the last update, one for each epoch."""

    def loss(self, seen: Evaluation, batch: Batch, progress: float, policy: Policy) -> tuple[Tensor, Statistics]:
        """PPO's; of clamped ratios where the minimum is left out, since a clamped ratio is its own minimum."""
        loss, statistics = super().loss(seen, batch, progress, policy)
        if not self.minimum:
            near = replace(seen, log_prob=clamped(seen.log_prob, batch.log_prob, CLIP))
            loss, _ = super().loss(near, batch, progress, policy)
        return loss, statistics

    def update(self, task: UpdateTask) -> UpdateReport:
        """PPO's, looked at between its epochs."""
        batch = normalized(task.batch, self, "batch", NOISE * task.reward_scale)
        each = len(batch) // (self.minibatch_size or len(batch))
        self.looks.clear()
        steps = 0

        def looking(gradient: Gradient) -> Gradient:
            def step(minibatch: Batch) -> Statistics:
                nonlocal steps
                if steps and steps % each == 0:
                    self.looks.append(look(task.policy, batch, CLIP))
                steps += 1
                return gradient(minibatch)

            return step

        report = super().update(replace(task, watch=looking))
        self.looks.append(look(task.policy, batch, CLIP))
        return report


def clamped(log_prob: Tensor, old_log_prob: Tensor, clip: float) -> Tensor:
    """Log-probs whose ratio to the old ones lies within the range; those outside have no gradient."""
    return old_log_prob + (log_prob - old_log_prob).clamp(log(1 - clip), log(1 + clip))


def look(policy: Policy, batch: Batch, clip: float) -> dict[str, Any]:
    """Where a batch is now.

    Returns:
        Shares of the samples with a good advantage, and of those with a bad one: `outside` the range, `cut` (without a
        gradient of the clipped objective), `astray` (outside, against their advantage: the minimum keeps their
        gradient). And `missing`: the length of what plain clipping leaves out of the policy's gradient, in units of
        the gradient's own.
    """
    log_prob = policy.evaluate(batch).log_prob
    vectors = [_gradient(policy, log_prob, batch, clip, minimum) for minimum in (True, False)]
    free = log_prob.detach().requires_grad_()
    loss, _ = clipped_surrogate(free, batch.log_prob, batch.advantages, clip=clip)
    still = torch.autograd.grad(loss, free)[0] == 0
    ratio = (log_prob.detach() - batch.log_prob).exp()
    outside = (ratio < 1 - clip) | (ratio > 1 + clip)
    signs = [batch.advantages > 0, batch.advantages < 0]
    shares = {"outside": outside, "cut": outside & still, "astray": outside & ~still}
    found: dict[str, Any] = {name: [_share(x, sign) for sign in signs] for name, x in shares.items()}
    whole = float(vectors[0].norm())
    return {**found, "missing": float((vectors[0] - vectors[1]).norm()) / whole if whole else 0.0}


def _share(which: Tensor, among: Tensor) -> float:
    return float(which[among].float().mean()) if bool(among.any()) else 0.0


def _gradient(policy: Policy, log_prob: Tensor, batch: Batch, clip: float, minimum: bool) -> Tensor:
    """Of the objective alone, over the policy's weights."""
    weights = [p for p in policy.parameters() if p.requires_grad]  # type: ignore[attr-defined]
    asked = log_prob if minimum else clamped(log_prob, batch.log_prob, clip)
    loss, _ = clipped_surrogate(asked, batch.log_prob, batch.advantages, clip=clip if minimum else None)
    parts = torch.autograd.grad(loss, weights, retain_graph=True, allow_unused=True)
    return torch.cat([part.flatten() for part in parts if part is not None])


class Ratio(Experiment):
    """See `texts/ratio.md`."""

    name: ClassVar[str] = "ratio"

    def arms(self) -> list[str]:
        """With the minimum and without, and once more with it."""
        return [MINIMUM, PLAIN, AGAIN]

    def measure(self, arm: str, seed: int) -> dict[str, Any]:
        """`score` (share of the best return); for each epoch `outside`, `cut` and `astray` by sign; `missing`."""
        steps = 4_000 if self.quick else 60_000
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
