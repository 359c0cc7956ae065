"""What an update can be told. No torch here: the command line reads this before torch is loaded."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from math import inf
from typing import Any, ClassVar, Literal

from proximo.core.schedules import Schedule, as_setting

APART = ("max_actor_grad_norm", "max_critic_grad_norm")
"""Settings that clip the gradient of a part."""


@dataclass(frozen=True)
class UpdateSettings:
    """One on-policy update: epochs x minibatches over one batch."""

    chosen_by: ClassVar[str] = "algorithm"
    """Key of a table that names a subclass with settings of its own: one of `shipped`, or the user's `module:Name`."""
    shipped: ClassVar[Mapping[str, str]] = {
        "ppo": "proximo.algorithms.ppo:PPO",
        "ppo-penalty": "proximo.algorithms.ppo_penalty:PPOPenalty",
        "a2c": "proximo.algorithms.a2c:A2C",
        "reinforce": "proximo.algorithms.reinforce:REINFORCE",
        "trpo": "proximo.algorithms.trpo:TRPO",
        "distill": "proximo.algorithms.distillation:Distillation",
        "rloo": "proximo.algorithms.rloo:RLOO",
        "grpo": "proximo.algorithms.grpo:GRPO",
    }
    """Algorithms of ours by the names that a person types."""
    lacks: ClassVar[Mapping[str, str]] = {}
    """PPO's settings that an algorithm does not have, and why. They stay at the class's default, are not written, and
    can not be set."""
    critic: ClassVar[bool] = True
    """False for an algorithm that learns no values: then nothing is measured, or found wrong, of a critic."""
    kl_in_the_loss: ClassVar[bool] = False
    """True where the loss pays for a language model's KL to its reference, and the rewards do not: then a batch has
    `inputs["ref_log_prob"]` `[B, R]` and `inputs["kl_coefficient"]` `[B]`, where there is a reference."""
    elsewhere: ClassVar[Mapping[str, str]] = {}
    """Kinds of runs that an algorithm is not for, `control` or `language`, and why."""

    unread: ClassVar[Mapping[str, str]] = {}
    """Settings of the run that an algorithm does not read, and why: they can not be set beside it."""

    epochs: int = 10
    """Passes over each rollout."""
    minibatch_size: int | None = 64
    """Samples per gradient step (environment steps; with memory, still steps: whole sequences are taken); None takes
    the whole rollout."""
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
    max_actor_grad_norm: float | None = None
    """Norm to which the gradient of all that is not the critic's alone is clipped, before the global one; None is
    off."""
    max_critic_grad_norm: float | None = None
    """Norm to which the gradient of the critic's own layers is clipped, before the global one; None is off."""
    normalize_advantages: Literal["batch", "minibatch", "off"] = "batch"
    """Over what the advantages are scaled to mean 0 and variance 1 (divided by a tenth of the rewards' own scale
    at least); a single sample is left as it is."""
    target_kl: float | None = None
    """The update stops before a step whose minibatch shows a larger approximate KL to the old policy (nats)."""
    adaptive_kl: float | None = None
    """KL (nats) that the learning rate is steered towards, between 1/100 and 10 times where it starts: exact where the
    actions' distributions have a closed form, else an estimate from samples; replaces the learning-rate schedule; None
    is off."""
    micro_batches: int = 1
    """Parts in which each minibatch goes through the network, to save memory; changes no gradient."""
    recompute_advantages: bool = False
    """Estimate the advantages anew, with the critic as it then is, before each epoch after the first."""

    def __post_init__(self) -> None:
        """Refuse settings that can not mean anything.

        Raises:
            ValueError: names the setting, its value and what it must be.
        """
        for field in fields(self):
            if field.name in self.lacks and getattr(self, field.name) != field.default:
                raise ValueError(self.refusal(field.name))
        for name in ("clip", "entropy_coefficient"):
            object.__setattr__(self, name, as_setting(getattr(self, name)))
        clip = None if self.clip is None else Schedule.parse(self.clip, "clip")
        Schedule.parse(self.entropy_coefficient, "entropy_coefficient")
        rules = {
            "epochs": (self.epochs >= 1, "positive"),
            "minibatch_size": (self.minibatch_size is None or self.minibatch_size >= 1, "positive"),
            "micro_batches": (self.micro_batches >= 1, "positive"),
            "clip": (clip is None or clip.extremes[0] >= 0, "at least 0"),
            "dual_clip": (self.dual_clip is None or self.dual_clip > 1, "more than 1"),
            "value_clip": (self.value_clip is None or self.value_clip > 0, "positive"),
            "value_coefficient": (0 <= self.value_coefficient < inf, "at least 0, and finite"),
            **{
                name: (getattr(self, name) is None or getattr(self, name) > 0, "positive")
                for name in ("max_grad_norm", *APART)
            },
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

    @property
    def responses_per_prompt(self) -> int:
        """Responses of a language model to each prompt that is taken, which lie side by side in a rollout."""
        return 1

    def check_kind(self, kind: str) -> None:
        """Refuse a kind of run that the algorithm is not for.

        Raises:
            ValueError: it is not for it.
        """
        if kind in self.elsewhere:
            raise ValueError(f"{type(self).__name__} is not for this kind of run: {self.elsewhere[kind]}")
        for name in APART:
            if kind == "language" and getattr(self, name) is not None:
                raise ValueError(
                    f"{name} is for control runs: a language model is clipped by max_grad_norm, as a whole"
                )

    def check_unread(self, run: Any) -> None:
        """Refuse settings of the run, a dataclass, that mean nothing to the algorithm.

        Raises:
            ValueError: one is not at its default.
        """
        for field in fields(run):
            if field.name in self.unread and (value := getattr(run, field.name)) != field.default:
                raise ValueError(
                    f"{field.name} = {value} has no say in {type(self).__name__}: {self.unread[field.name]}"
                )

    @classmethod
    def short_name(cls, path: str) -> str:
        """The name that a person types for a class at `path`; `path` itself for one of the user's own."""
        return next((name for name, place in cls.shipped.items() if place == path), path)

    @classmethod
    def refusal(cls, name: str) -> str:
        """Why a setting of PPO's is none of this algorithm's."""
        return f"{cls.__name__} has no {name}: {cls.lacks[name]}"
