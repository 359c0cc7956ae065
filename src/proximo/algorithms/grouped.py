"""Shared by algorithms that compare the responses to one prompt and learn no values."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from proximo.algorithms.base import Transitions
from proximo.algorithms.ppo import PPO

_NO_CRITIC = "it learns no values: the other responses to a prompt take the critic's place"
_GROUPS = "advantages are compared within the responses to each prompt"
_WHOLE = "a response is rewarded as a whole, and no token's value is estimated"


@dataclass(frozen=True)
class Grouped(PPO):
    """Several responses to each prompt; a response's advantage is what it got less what the others got."""

    critic: ClassVar[bool] = False
    lacks: ClassVar[Mapping[str, str]] = {
        "value_coefficient": _NO_CRITIC,
        "value_clip": _NO_CRITIC,
        "recompute_advantages": _NO_CRITIC,
        "normalize_advantages": _GROUPS,
        "dual_clip": "clip and clip_high bound the ratio",
        "micro_batches": "token_budget decides what goes through the network at once",
    }
    unread: ClassVar[Mapping[str, str]] = {"gamma": _WHOLE, "lam": _WHOLE}
    elsewhere: ClassVar[Mapping[str, str]] = {"control": "it compares the responses of a language model to one prompt"}

    value_coefficient: float = 0.0
    normalize_advantages: Literal["batch", "minibatch", "off"] = "off"
    group: int = 8
    """Responses to each prompt."""
    clip_high: float | None = None
    """Clip range of the ratio above 1, where it is another than below (DAPO's clip-higher: 0.28); None takes `clip`."""

    def __post_init__(self) -> None:
        """Refuse settings that can not mean anything.

        Raises:
            ValueError: names the setting, its value and what it must be.
        """
        super().__post_init__()
        if self.group < 2:
            raise ValueError(f"group = {self.group} must be 2 or more: a response is compared with others")
        if self.clip_high is not None and not (self.clip_high > 0 and self.clip is not None):
            raise ValueError(f"clip_high = {self.clip_high} must be positive, and needs a clip")

    @property
    def responses_per_prompt(self) -> int:
        """The group."""
        return self.group

    def spread(self, advantages: Tensor, rollout: Transitions, weight: Tensor) -> tuple[Tensor, ...]:
        """What `estimate` gives: one advantage and one weight for each response, as `[R, B]`; no returns are learnt.

        Args:
            advantages: `[B]`.
            rollout: for the shape.
            weight: `[B]`, of each of a response's tokens.
        """
        shape = rollout.rewards.shape
        returns = torch.zeros_like(rollout.rewards)
        return advantages.to(returns).expand(shape).clone(), returns, weight.to(returns).expand(shape).clone()

    def lengths(self, rollout: Transitions) -> Tensor:
        """Tokens of each response, `[B]`: `done` holds from the last one on."""
        return len(rollout.done) - rollout.done.sum(0) + 1
