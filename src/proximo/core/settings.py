"""What an update can be told. No torch here: the command line reads this before torch is loaded."""

from dataclasses import dataclass
from math import inf
from typing import ClassVar, Literal

from proximo.core.schedules import Schedule, as_setting


@dataclass(frozen=True)
class UpdateSettings:
    """One on-policy update: epochs x minibatches over one batch."""

    chosen_by: ClassVar[str] = "algorithm"
    """Key of a table that names a subclass of the user's own, `module:Name`, with settings of its own."""

    epochs: int = 10
    """Passes over each rollout."""
    minibatch_size: int = 64
    """Samples per gradient step (environment steps; with memory, still steps: whole sequences are taken)."""
    clip: float | str | None = 0.2
    """Clip range of the probability ratio, a number or a schedule; None removes the clip (policy gradient, A2C)."""
    dual_clip: float | None = None
    """Bound, > 1, on ratio x |advantage| where the advantage is negative (Ye et al. 2020); None is off."""
    value_coefficient: float = 0.5
    """Weight of the value loss."""
    value_clip: float | None = None
    """Clip range of the value's move away from the old value; None is off (Engstrom et al. 2020 found no benefit)."""
    entropy_coefficient: float | str = 0.0
    """Weight of the entropy bonus, a number or a schedule."""
    max_grad_norm: float | None = 0.5
    """Global norm to which the gradient is clipped; None is off."""
    normalize_advantages: Literal["batch", "minibatch", "off"] = "batch"
    """Over what the advantages are scaled to mean 0 and variance 1 (divided by a tenth of the rewards' own scale
    at least); a single sample is left as it is."""
    target_kl: float | None = None
    """The update stops before a step whose minibatch shows a larger approximate KL to the old policy (nats)."""
    adaptive_kl: float | None = None
    """KL (nats) that the learning rate is steered towards, between 1/100 and 10 times where it starts; replaces the
    learning-rate schedule; None is off."""
    micro_batches: int = 1
    """Parts in which each minibatch goes through the network, to save memory; changes no gradient."""
    recompute_advantages: bool = False
    """Estimate the advantages anew, with the critic as it then is, before each epoch after the first."""

    def __post_init__(self) -> None:
        """Refuse settings that can not mean anything.

        Raises:
            ValueError: names the setting, its value and what it must be.
        """
        for name in ("clip", "entropy_coefficient"):
            object.__setattr__(self, name, as_setting(getattr(self, name)))
        clip = None if self.clip is None else Schedule.parse(self.clip, "clip")
        Schedule.parse(self.entropy_coefficient, "entropy_coefficient")
        rules = {
            "epochs": (self.epochs >= 1, "positive"),
            "minibatch_size": (self.minibatch_size >= 1, "positive"),
            "micro_batches": (self.micro_batches >= 1, "positive"),
            "clip": (clip is None or clip.extremes[0] >= 0, "at least 0"),
            "dual_clip": (self.dual_clip is None or self.dual_clip > 1, "more than 1"),
            "value_clip": (self.value_clip is None or self.value_clip > 0, "positive"),
            "value_coefficient": (0 <= self.value_coefficient < inf, "at least 0, and finite"),
            "max_grad_norm": (self.max_grad_norm is None or self.max_grad_norm > 0, "positive"),
            "normalize_advantages": (
                self.normalize_advantages in ("batch", "minibatch", "off"),
                "'batch', 'minibatch' or 'off'",
            ),
            "target_kl": (self.target_kl is None or self.target_kl > 0, "positive"),
            "adaptive_kl": (self.adaptive_kl is None or self.adaptive_kl > 0, "positive"),
        }
        for name, (holds, bound) in rules.items():
            if not holds:
                raise ValueError(f"{name} = {getattr(self, name)} must be {bound}")
