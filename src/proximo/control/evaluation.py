"""Whole episodes with a fixed policy, on seeds that training never sees; returns of the environment as it was given."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from proximo.control import seeds
from proximo.control.configuration import TrainConfig
from proximo.control.environments import Episode, Source, make_environments
from proximo.control.environments.base import VectorEnvironment
from proximo.control.policy import ControlPolicy
from proximo.control.rollout import Collector
from proximo.core.batch import Action

MOST_TOGETHER = 32
LONGEST = 30_000  # steps after which an episode is cut; Atari's longest have 27,000
_LESSONS = ("episodic_life", "reward_clip")  # what makes Atari easier to learn is no part of the task


@dataclass(frozen=True)
class Evaluation:
    """Episodes of one policy."""

    deterministic: bool
    returns: tuple[float, ...]
    lengths: tuple[int, ...]
    task_returns: tuple[float, ...]
    """Of the task itself, below the user's wrappers."""
    unfinished: int = 0
    """Episodes among them that had not ended after `LONGEST` steps and count with what they had returned by then."""

    @property
    def mean(self) -> float:
        """Mean return."""
        return float(np.mean(self.returns))

    @property
    def task_mean(self) -> float | None:
        """Mean return of the task itself; None where no wrapper makes another of it."""
        return None if self.task_returns == self.returns else float(np.mean(self.task_returns))

    @property
    def std(self) -> float:
        """Standard deviation over episodes."""
        return float(np.std(self.returns))


class Deterministic:
    """A policy that takes the mode of its distribution."""

    def __init__(self, policy: ControlPolicy) -> None:
        self.policy = policy

    def act(
        self, inputs: Mapping[str, Tensor], memory: Tensor | None = None, *, generator: torch.Generator | None = None
    ) -> Action:
        """As `ControlPolicy.act`, without noise."""
        return self.policy.act(inputs, memory, generator=generator, deterministic=True)

    def log_prob(self, output: Tensor, action: Tensor) -> Tensor:
        """As `ControlPolicy.log_prob`."""
        return self.policy.log_prob(output, action)

    def value(self, inputs: Mapping[str, Tensor], memory: Tensor | None = None) -> Tensor:
        """As `ControlPolicy.value`."""
        return self.policy.value(inputs, memory)


def evaluation_environments(config: TrainConfig, source: Source, episodes: int) -> VectorEnvironment:
    """Environments of the run's task without the help that training gives (lost lives, clipped rewards)."""
    options = {k: v for k, v in config.options.items() if k not in _LESSONS}
    return make_environments(
        source,
        min(episodes, MOST_TOGETHER),
        backend=config.backend,
        options=options,
        timeout=config.environment_timeout,
        frame_stack=config.frame_stack,
        any_count=True,
        mask_key=config.mask_key,
        observation_keys=config.observation_keys,
    )


def evaluate(
    policy: ControlPolicy, environments: VectorEnvironment, episodes: int, *, deterministic: bool, seed: int
) -> Evaluation:
    """Run `episodes` episodes.

    Each environment runs the same number of episodes: taking whichever end first would favour short ones.

    Args:
        policy: as it is; nothing of it moves.
        environments: any number of them; surplus episodes are left out.
        episodes: how many.
        deterministic: the mode of the distribution instead of a sample.
        seed: of the run; the seeds used are apart from those of training.
    """
    count = environments.count
    rounds = -(-episodes // count)
    device = next(policy.parameters()).device
    generator = torch.Generator(device).manual_seed(seeds.derive(seed, seeds.EVALUATION, 1, 1)[0])
    collector = Collector(environments, policy, Deterministic(policy) if deterministic else policy, 1, generator)
    collector.restart(seeds.derive(seed, seeds.EVALUATION, 0, count))
    results: list[list[Episode]] = [[] for _ in range(count)]
    steps = 0
    while min(map(len, results)) < rounds:
        if steps == rounds * LONGEST:
            return _cut(deterministic, results, collector, rounds, episodes)
        steps += 1
        rollout = collector.collect()
        assert collector.last_step is not None
        ended = np.flatnonzero(collector.last_step.episode_over & collector.last_step.valid)
        for row, episode in zip(ended, rollout.episodes, strict=True):
            results[row].append(episode)
    return _of(deterministic, results, rounds, episodes)


def _of(
    deterministic: bool, results: list[list[Episode]], rounds: int, episodes: int, unfinished: int = 0
) -> Evaluation:
    flat = [result[i] for i in range(rounds) for result in results][:episodes]
    values, lengths, task_values = zip(*flat, strict=True)
    return Evaluation(deterministic, values, lengths, task_values, unfinished)


def _cut(
    deterministic: bool, results: list[list[Episode]], collector: Collector, rounds: int, episodes: int
) -> Evaluation:
    """A task without an end and without a time limit: what its episodes have returned so far stands for them."""
    missing = sum(rounds - len(result) for result in results)
    for result, unfinished in zip(results, collector.unfinished(), strict=True):
        result.extend([unfinished] * (rounds - len(result)))
    return _of(deterministic, results, rounds, episodes, missing)
