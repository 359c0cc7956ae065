"""The policies that took the kept steps, as far as they can be made again: what else they might have done."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch

from proximo.control.models.policy import ControlPolicy
from proximo.core.distributions import Distribution
from proximo.core.updates.optimizer import FlatAdam
from proximo.errors import MALFORMED, UserError
from proximo.runs.replay.entry import Entry, Kept, under

ROUNDING = 0.02
"""Nats by which a log-probability may differ on another machine."""


@dataclass(frozen=True)
class Again:
    """Actions that were as likely as those that were taken, given all that was seen."""

    draw: Callable[[int], np.ndarray]
    """Number of a draw -> `[T - since, N, A]`."""
    since: int = 0
    """Step from which on they are drawn: questions are put to the last ones."""
    _known: dict[int, np.ndarray] = field(default_factory=dict, repr=False, compare=False)

    def __call__(self, number: int) -> np.ndarray:
        """The draw with this number, made once: every question is put to the same ones."""
        if number not in self._known:
            self._known[number] = self.draw(number)
        return self._known[number]


def drawn_again(kept: Kept, steps: int) -> Again | None:
    """Draws from the policies that acted, each with its weights before its update; None where they are not as they
    were, or where that would run code of the user's own: a diagnosis only reads.

    Args:
        kept: a run's last updates.
        steps: how many of the last ones.
    """
    parts: list[Distribution] = []
    entries, count = list(kept.entries), 0
    while entries and count < steps:
        entry = entries.pop()
        count += int(entry.learnt["valid"].sum())
        try:
            part = _distribution(kept, entry)
        except (UserError, *MALFORMED):  # kept by another version
            return None
        if part is None:
            return None
        parts.insert(0, part)
    with_memory = "memory" in kept.entries[0].learnt
    lengths, copies = [len(entry.learnt["reward"]) for entry in kept.entries], kept.entries[0].learnt["reward"].shape[1]
    since = max(sum(lengths[: len(entries)]), sum(lengths) - -(-steps // copies))

    def draw(number: int) -> np.ndarray:
        generator = torch.Generator().manual_seed(number)
        drawn = [part.sample(generator) for part in parts]
        every = torch.cat([x.transpose(0, 1) if with_memory else x for x in drawn])
        return every[since - sum(lengths) :].to(torch.float32, copy=True).numpy()  # the last ones; the rest is let go

    return Again(draw, since)


@torch.no_grad()
def _distribution(kept: Kept, entry: Entry) -> Distribution | None:
    """Of the actions of one rollout: `[T, N]`, or `[N, T]` with memory."""
    described = kept.run["policy"]
    if described["network"].get("custom") or described["network"].get("encoders"):
        return None
    policy, learnt = ControlPolicy.build(described), entry.learnt
    for name, x in under("buffers/", learnt).items():
        policy.get_buffer(name).copy_(x)
    entry.before.put_back(FlatAdam(policy.parameters_by_layer(), 0.0), {})
    inputs, action, log_prob = under("inputs/", learnt), learnt["action"], learnt["log_prob"]
    if "memory" in learnt:
        inputs = {name: x.transpose(0, 1) for name, x in (inputs | {"starts": learnt["starts"]}).items()}
        inputs["memory"], action, log_prob = learnt["memory"], action.transpose(0, 1), log_prob.transpose(0, 1)
    distribution, _ = policy.look(inputs)
    alike = torch.allclose(distribution.log_prob(action), log_prob, rtol=1e-3, atol=ROUNDING)
    return distribution if alike else None
