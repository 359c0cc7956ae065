"""An environment before it is trained on: random actions, and what they show."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import gymnasium
import numpy as np

from proximo.control import seeds
from proximo.control.environments import EpisodeCounter, Source, make_environments
from proximo.control.environments.base import Observation, VectorEnvironment
from proximo.control.probes.answers import Answers, ask
from proximo.control.probes.experience import Watched
from proximo.control.spaces.actions import ActionSpec
from proximo.control.spaces.leaves import leaves
from proximo.control.spaces.trees import named_leaves

COUNT = 4  # environments stepped together
FEWEST = 1000  # steps of all copies together, before questions are put to them
REPEATED = 60  # steps in which two copies are compared


@dataclass
class Observed:
    """What random actions have shown of an environment."""

    name: str
    backend: str
    action_space: str
    bounds: tuple[float, float] | None
    """Smallest and largest width of a continuous action's range; None without one that has bounds."""
    steps: int = 0
    """Of all environments together."""
    seconds: float = 0.0
    """Spent in the environments."""
    lengths: list[int] = field(default_factory=list)
    """Of the episodes that ended."""
    terminated: int = 0
    truncated: int = 0
    rewards: np.ndarray = field(default_factory=lambda: np.zeros(0))
    size: np.ndarray = field(default_factory=lambda: np.zeros(0))
    """`[D]` root mean square of each number of an observation; images are left out."""
    spread: np.ndarray = field(default_factory=lambda: np.zeros(0))
    """`[D]` largest minus smallest value."""
    scaled: np.ndarray = field(default_factory=lambda: np.zeros(0, bool))
    """`[D]` whether it is a number of a Box; choices and switches are encoded, so they have no scale."""
    images: bool = False
    repeated: int = 0
    """Steps in which that was compared:"""
    repeats: bool = True
    """Two new copies do the same with the same seeds and actions."""
    forgets: bool = True
    """A copy that has been used does the same again after a reset with its seed."""
    told: Answers | None = None
    """What the steps say of actions, observations and rewards; None where there are only images, or few steps."""

    @property
    def rate(self) -> float:
        """Environment steps per second."""
        return self.steps / self.seconds if self.seconds else 0.0


def examine(
    source: Source,
    *,
    backend: str = "auto",
    options: Mapping[str, Any] | None = None,
    steps: int = 2500,
    seconds: float = 8.0,
    seed: int = 0,
) -> Observed:
    """Step an environment with random actions.

    Args:
        source: as `make_environments` takes it.
        backend: what steps it.
        options: for the environment's maker.
        steps: of each of the four copies, at most.
        seconds: after which the exploration ends, whatever the steps.
        seed: of environments and actions.

    Raises:
        UserError: it can not be made, or returns what can not be learnt from.
    """

    def make() -> VectorEnvironment:
        return make_environments(
            source, COUNT, backend=backend, options=options, any_count=True, observation_keys=("*",)
        )

    first = make()
    try:
        spec = ActionSpec.of(first.action_space)
        started = seeds.derive(seed, seeds.TRAINING, 0, first.count)
        before = _trace(first, spec, started, seed, REPEATED, seconds / 4)
        seen = _explore(first, spec, started, seed, steps, seconds)
        seen.repeated = len(before) - 1
        seen.forgets = _same(before, _trace(first, spec, started, seed, seen.repeated))
        second = make()
        try:
            seen.repeats = _same(before, _trace(second, spec, started, seed, seen.repeated))
        finally:
            second.close()
    finally:
        first.close()
    return seen


def random_actions(spec: ActionSpec, count: int, generator: np.random.Generator, mask: np.ndarray | None) -> Any:
    """Uniform actions for `count` environments, as they take them; a choice that `mask` forbids is not taken."""
    return spec.to_environment(_random_columns(spec, count, generator, mask))


def _random_columns(
    spec: ActionSpec, count: int, generator: np.random.Generator, mask: np.ndarray | None
) -> np.ndarray:
    """The same as they are stored, `[count, width]`."""
    columns: list[np.ndarray] = []
    start = 0
    for part in spec.parts:
        if part.kind == "box":
            columns.append(generator.uniform(-1.0, 1.0, (count, part.width)))
        elif part.kind == "binary":
            columns.append(generator.integers(0, 2, (count, part.width)))
        for choices in part.choices:
            weight = generator.random((count, choices))
            if mask is not None:
                weight = np.where(mask[:, start : start + choices], weight, -1.0)
            columns.append(weight.argmax(1)[:, None])
            start += choices
    return np.concatenate(columns, 1).astype(np.float64)


def _numbers(observation: Observation, count: int) -> np.ndarray:
    """`[N, D]`: all that is not an image, side by side."""
    leaves = [np.asarray(x) for _, x in named_leaves(observation)]
    flat = [x.reshape(count, -1).astype(np.float64) for x in leaves if not _is_image(x)]
    return np.concatenate(flat, 1) if flat else np.zeros((count, 0))


def _scaled(space: gymnasium.Space, observation: Observation, count: int) -> np.ndarray:
    """`[D]` bool, as `_numbers` has the columns: which of them are numbers of a Box."""
    boxes = {".".join(map(str, path)) for path, leaf in leaves(space) if isinstance(leaf, gymnasium.spaces.Box)}
    columns = [np.full(x.size // count, name in boxes) for name, x in named_leaves(observation) if not _is_image(x)]
    return np.concatenate(columns) if columns else np.zeros(0, bool)


def _is_image(leaf: np.ndarray) -> bool:
    return leaf.dtype == np.uint8 and leaf.ndim > 2


def _trace(
    environments: VectorEnvironment,
    spec: ActionSpec,
    started: list[int],
    seed: int,
    steps: int,
    seconds: float = float("inf"),
) -> list[list[np.ndarray]]:
    """Everything that the reset and some steps after it have shown, one list for each."""
    generator, begun = np.random.default_rng(abs(seed)), time.perf_counter()
    observation, mask = environments.reset(started)
    shown = [[np.array(x) for _, x in named_leaves(observation)]]
    while len(shown) <= steps and time.perf_counter() - begun < seconds:
        step = environments.step(random_actions(spec, environments.count, generator, mask))
        mask = step.mask
        leaves = [np.array(x) for _, x in named_leaves(step.observation)]
        shown.append([*leaves, step.reward, step.terminated, step.truncated])
    return shown


def _same(a: list[list[np.ndarray]], b: list[list[np.ndarray]]) -> bool:
    return all(
        np.array_equal(x, y) for mine, theirs in zip(a, b, strict=True) for x, y in zip(mine, theirs, strict=True)
    )


def _explore(
    environments: VectorEnvironment, spec: ActionSpec, started: list[int], seed: int, steps: int, seconds: float
) -> Observed:
    seen = Observed(environments.name, environments.backend, str(environments.action_space), _bounds(spec))
    generator, counter = np.random.default_rng(abs(seed) + 1), EpisodeCounter(environments.count)
    observation, mask = environments.reset(started)
    seen.images = any(_is_image(np.asarray(x)) for _, x in named_leaves(observation))
    seen.scaled = _scaled(environments.observation_space, observation, environments.count)
    numbers, rewards = [_numbers(observation, environments.count)], []
    watched = Watched(numbers[0])
    begun = time.perf_counter()
    for _ in range(steps):
        actions = _random_columns(spec, environments.count, generator, mask)
        before = time.perf_counter()
        step = environments.step(spec.to_environment(actions))
        seen.seconds += time.perf_counter() - before
        mask = step.mask
        seen.steps += int(step.valid.sum())
        seen.terminated += int((step.terminated & step.valid).sum())
        seen.truncated += int((step.truncated & ~step.terminated & step.valid).sum())
        seen.lengths += [episode.length for episode in counter.update(step)]
        rewards.append(step.reward[step.valid])
        numbers.append(_numbers(step.final_observation, environments.count))
        watched.note(actions, step, numbers[-1], _numbers(step.observation, environments.count))
        if time.perf_counter() - begun > seconds:
            break
    every = np.concatenate(numbers)
    seen.rewards = np.concatenate(rewards)
    seen.size, seen.spread = np.sqrt((every**2).mean(0)), np.ptp(every, axis=0)
    if not seen.images and seen.steps >= FEWEST:
        seen.told = ask(watched.experience(), 0.99)
    return seen


def _bounds(spec: ActionSpec) -> tuple[float, float] | None:
    widths = np.concatenate([np.subtract(*part.bounds[::-1]) for part in spec.parts if part.kind == "box"] or [[]])
    bounded = widths[np.isfinite(widths)]
    return (float(bounded.min()), float(bounded.max())) if bounded.size else None
