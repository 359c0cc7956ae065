"""An export and its policy shown the same observations: those of the environment, and others that it never gave."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from proximo.control.environments.base import VectorEnvironment
from proximo.control.models.policy import ControlPolicy
from proximo.control.spaces.masks import opened
from proximo.control.spaces.observations import Part
from proximo.core.distributions import Distribution
from proximo.views.export.interface import Interface, at, stack
from proximo.views.export.module import logits_of

LIMIT = 1e-5
"""Of half an action's range (of 1 where it has no bounds): float32 rounds at 1e-7, and a wrong sign is 2."""

_Look = Callable[[], Distribution]
Play = Callable[[Mapping[str, np.ndarray]], Sequence[np.ndarray]]
"""An export: inputs by name, each `[N, ...]` -> its outputs in the interface's order, each `[N, ...]`."""


@dataclass(frozen=True)
class Shown:
    """One step of some environments."""

    observation: Any
    """A batch, as the environments give it."""
    mask: np.ndarray | None
    starts: np.ndarray
    """bool `[N]`: the observation is the first of an episode."""


def visited(policy: ControlPolicy, environments: VectorEnvironment, count: int, seeds: Sequence[int]) -> list[Shown]:
    """At least `count` observations of the environments in which the policy acts.

    Raises:
        UserError: the environments can not be stepped.
    """
    if policy.wrappers:
        environments.take_statistics(policy.wrappers, fixed=True)
    observation, mask = environments.reset(seeds)
    starts = np.ones(environments.count, bool)
    memory = policy.initial_memory(environments.count)
    shown: list[Shown] = []
    while len(shown) * environments.count < count:
        shown.append(Shown(observation, _open(policy, mask), starts))
        action, memory, _ = _decide(policy, shown[-1], memory)
        if len(shown) * environments.count < count:
            step = environments.step(policy.actions.to_environment(action.numpy()))
            observation, mask, starts = step.observation, step.mask, step.started
    return shown


def perturbed(policy: ControlPolicy, shown: Sequence[Shown], generator: np.random.Generator) -> Iterator[Shown]:
    """The same steps with other observations: numbers far beyond those seen, other bytes, choices and masks."""
    parts = policy.observations.parts
    spread = {part.path: _spread([np.asarray(at(s.observation, part.path)) for s in shown]) for part in parts}
    for step in shown:
        noise = {part.path: _other(part, step, spread[part.path], policy, generator) for part in parts}
        mask = None if step.mask is None else _random_mask(policy, step.mask.shape, generator)
        yield Shown(_replaced(step.observation, noise), mask, step.starts)


def _spread(leaves: list[np.ndarray]) -> np.ndarray:
    """The deviation of each number; of what is no number nothing."""
    return np.std(leaves, axis=(0, 1), dtype=np.float64) if leaves[0].dtype.kind == "f" else np.zeros(1)


def _other(part: Part, step: Shown, spread: np.ndarray, policy: ControlPolicy, generator: np.random.Generator) -> Any:
    leaf = np.asarray(at(step.observation, part.path))
    if part.kind == "one_hot":
        width = (len(leaf), len(part.choices))
        chosen = np.asarray(part.start) + generator.integers(0, part.choices, width)
        return chosen.reshape(leaf.shape).astype(leaf.dtype)
    if part.kind == "pixels":
        return generator.integers(0, 256, leaf.shape, dtype=np.uint8)
    if part.kind == "mask" and not part.choices and np.prod(part.shape) == policy.actions.mask_size:
        return _random_mask(policy, (len(leaf), policy.actions.mask_size), generator).reshape(leaf.shape)
    if leaf.dtype.kind != "f":
        return leaf
    wide = generator.choice([0.1, 1.0, 10.0], (len(leaf), *[1] * (leaf.ndim - 1)))
    scale = np.where(spread > 0, spread, 0.1 * np.abs(leaf) + 0.1)
    return (leaf + wide * scale * generator.standard_normal(leaf.shape)).astype(leaf.dtype)


def _random_mask(policy: ControlPolicy, shape: tuple[int, ...], generator: np.random.Generator) -> np.ndarray:
    return opened(generator.random(shape) < 0.5, policy.actions.choices)


def _replaced(tree: Any, new: Mapping[tuple, np.ndarray], path: tuple = ()) -> Any:
    if path in new:
        return new[path]
    if isinstance(tree, Mapping):
        return {key: _replaced(inner, new, (*path, key)) for key, inner in tree.items()}
    if isinstance(tree, tuple):
        return tuple(_replaced(inner, new, (*path, i)) for i, inner in enumerate(tree))
    return tree


@dataclass(frozen=True)
class Distance:
    """How far an export strays from its policy, at most."""

    numbers: float
    """Of half a number's range; of the memory as it is."""
    nats: float = 0.0
    """How much less probable the policy holds a choice or a switch than its own."""
    chance: float = 0.0
    """Of the probability of any choice or switch, by the logits that both give."""

    @classmethod
    def of(cls, all_of: Sequence["Distance"]) -> "Distance":
        """The largest of some; NaN where one is."""
        return cls(*(float(np.max(x)) for x in zip(*((d.numbers, d.nats, d.chance) for d in all_of), strict=True)))


def distance(policy: ControlPolicy, interface: Interface, play: Play, shown: Sequence[Shown]) -> Distance:
    """How far an export strays from its policy, at most, over some sequences of steps.

    Of a number: the distance in units of half its range. Of a choice or a switch that differs: how much less probable
    the policy holds it than its own, in nats, so that a tie that rounding decides is no error. Of every choice and
    switch, taken or not: the distance of its probabilities. Of the memory: the distance. Each of the two carries a
    memory of its own from step to step.

    Args:
        policy: the original.
        interface: of the export.
        play: the export.
        shown: one step after another, of the same environments.
    """
    count = len(shown[0].starts)
    memory, state = policy.initial_memory(count), np.zeros((count, policy.memory_size), np.float32)
    found, of_memory = [], [0.0]
    for step in shown:
        given = interface.feed(step.observation, step.mask)
        if interface.state is not None:
            state = np.where(step.starts[:, None], np.float32(0), state)
            given["state"] = state
        outputs = dict(zip(interface.output_names, play(given), strict=True))
        own, memory, look = _decide(policy, step, memory)
        found.append(_of_actions(policy, own, stack(interface.actions, outputs), look))
        if interface.logits is not None:
            found.append(Distance(0.0, chance=_of_chances(interface, outputs["logits"], logits_of(look()))))
        if interface.state is not None:
            assert memory is not None
            state = np.asarray(outputs["next_state"])
            of_memory.append(float(np.abs(state - memory.numpy()).max()))
    return Distance.of([*found, *map(Distance, of_memory)])


def _decide(policy: ControlPolicy, step: Shown, memory: Tensor | None) -> tuple[Tensor, Tensor | None, _Look]:
    """The policy's stored action `[N, width]`, its memory afterwards, and its distribution."""
    encoded = policy.observations.encode(step.observation, policy.exact_observations)
    if step.mask is not None and "mask" not in encoded:
        encoded["mask"] = step.mask
    inputs = {name: torch.from_numpy(np.ascontiguousarray(x)) for name, x in encoded.items()}
    if memory is not None:
        memory = torch.where(torch.from_numpy(step.starts).unsqueeze(1), 0.0, memory)
    action = policy.act(inputs, memory, deterministic=True)

    @torch.no_grad()
    def look() -> Distribution:
        return policy.step_distribution(inputs, memory)

    return action.action, action.memory, look


def _of_actions(policy: ControlPolicy, own: Tensor, given: np.ndarray, look: _Look) -> Distance:
    """The largest distance in a batch: stored actions `[N, width]` against what the export gave, `[N, width]`."""
    numbers, nats = [0.0], 0.0
    chosen = own.clone()
    start = 0
    for part in policy.actions.parts:
        columns = slice(start, start + part.width)
        start += part.width
        if part.kind == "box":
            gap = np.abs(given[:, columns] - _unrounded(policy, part, own[:, columns].numpy()))
            gap = np.maximum(gap - 0.5, 0.0) if part.whole else gap  # it is one of the nearest whole numbers
            numbers.append(float((gap / part.middle[1]).max()))
        else:
            chosen[:, columns] = torch.from_numpy(given[:, columns] - (part.start or 0.0))
    if all(part.kind == "box" for part in policy.actions.parts):
        return Distance(float(np.max(numbers)))
    differs = (chosen != own).any(1)
    if differs.any():
        distribution = look()
        try:
            less = distribution.log_prob(own) - distribution.log_prob(chosen)
            nats = float(less.reshape(-1)[differs].max())
        except (RuntimeError, IndexError):  # a choice that there is not
            nats = float("inf")
    return Distance(float(np.max(numbers)), nats)


def _of_chances(interface: Interface, given: np.ndarray, own: Tensor) -> float:
    """The largest distance between the probabilities of two rows of logits `[N, K]`."""
    both = [torch.as_tensor(np.asarray(x), dtype=torch.float64) for x in (given, own)]
    gaps, start = [], 0
    for port in interface.actions:
        for count in port.choices:
            one, other = (x[:, start : start + count].softmax(-1) for x in both)
            gaps.append(float((one - other).abs().max()))
            start += count
        if port.meaning == "switches":
            one, other = (x[:, start : start + port.size].sigmoid() for x in both)
            gaps.append(float((one - other).abs().max()))
            start += port.size
    return float(np.max(gaps))


def _unrounded(policy: ControlPolicy, part: Any, columns: np.ndarray) -> np.ndarray:
    """A Box leaf of stored actions as the environment takes it, before it is made whole."""
    first, last = part.stored_bounds
    x = np.tanh(columns) if policy.actions.squashed else np.clip(columns, first, last)
    (low, high), (centre, half) = part.bounds, part.middle
    return np.clip(centre + x * half, low, high)


def _open(policy: ControlPolicy, mask: np.ndarray | None) -> np.ndarray | None:
    """A mask in which something can be chosen; where an episode has ended an environment may close all."""
    return None if mask is None else opened(mask, policy.actions.choices)
