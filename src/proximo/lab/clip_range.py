"""Which samples the clip cuts, which went astray, and PPO with plain clipping."""

from dataclasses import dataclass, replace
from math import log
from typing import Any, ClassVar

import torch
from torch import Tensor

from proximo.algorithms import PPO
from proximo.core.batch import Batch, Evaluation
from proximo.core.objectives import clipped_surrogate
from proximo.core.updates.update import NOISE, Gradient, Policy, Statistics, UpdateReport, UpdateTask, normalized


@dataclass(frozen=True)
class Looked(PPO):
    """PPO that looks at its whole rollout after each epoch."""

    minimum: bool = True
    """False clips the ratio alone: mean clamp(ratio, 1 - clip, 1 + clip) A."""
    looks: ClassVar[list[dict[str, Any]]] = []
    """Of the last update, one for each epoch."""

    @property
    def range(self) -> float:
        """The clip, which is to be a number."""
        return float(self.clip or 0.0)

    def loss(self, seen: Evaluation, batch: Batch, progress: float, policy: Policy) -> tuple[Tensor, Statistics]:
        """PPO's; of clamped ratios where the minimum is left out, since a clamped ratio is its own minimum."""
        loss, statistics = super().loss(seen, batch, progress, policy)
        if not self.minimum:
            near = replace(seen, log_prob=clamped(seen.log_prob, batch.log_prob, self.range))
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
                    self.looks.append(look(task.policy, batch, self.range))
                steps += 1
                return gradient(minibatch)

            return step

        report = super().update(replace(task, watch=looking))
        self.looks.append(look(task.policy, batch, self.range))
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
    shares = {"outside": outside, "cut": still, "astray": outside & ~still}
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
