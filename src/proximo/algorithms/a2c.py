"""Advantage actor-critic (Mnih et al. 2016, arXiv 1602.01783), with environments in step instead of apart (A2C)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from proximo.algorithms.ppo import PPO

ONE_STEP: Mapping[str, str] = {
    "epochs": "it learns once from each rollout",
    "minibatch_size": "it takes one gradient step on the whole rollout",
    "clip": "with one step the ratio is 1, and there is nothing to clip",
    "dual_clip": "with one step the ratio is 1, and there is nothing to clip",
    "value_clip": "with one step the critic's values are still the old ones",
    "target_kl": "there is no second step that could be left out",
    "adaptive_kl": "its learning rate follows a schedule",
    "recompute_advantages": "it learns once from each rollout",
}
"""PPO's settings that mean nothing where each rollout is learnt from in one step."""


@dataclass(frozen=True)
class A2C(PPO):
    """One policy-gradient step on each short rollout, with GAE as the advantage.

    It is PPO with one epoch, one minibatch and no clip (Huang et al. 2022, arXiv 2205.09123): at ratio 1 the gradient
    of the surrogate is the policy gradient. Adam takes the place of RMSprop.
    """

    lacks: ClassVar[Mapping[str, str]] = ONE_STEP

    epochs: int = 1
    minibatch_size: int | None = None
    clip: float | str | None = None
    normalize_advantages: Literal["batch", "minibatch", "off"] = "off"
    """Over what the advantages are scaled to mean 0 and variance 1; off as in the paper."""
