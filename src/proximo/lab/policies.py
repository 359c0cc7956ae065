"""Control runs in memory, for experiments: begun, held at a point, gone on with under other settings."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import gymnasium
import numpy as np
from torch import Tensor

from proximo.control.config import TrainConfig
from proximo.control.environments import make_environments
from proximo.control.loading import LoadedPolicy
from proximo.control.models.device import limit_threads
from proximo.control.presets import configure
from proximo.control.spaces.observations import ObservationSpec
from proximo.control.training.training import Training
from proximo.core.batch import Batch
from proximo.core.settings import UpdateSettings

Held = tuple[dict[str, Tensor], dict[str, Any]]
"""A training at a point: what a checkpoint has."""


def settings(task: str, update: UpdateSettings | None = None, preset: str = "tuned", **changes: Any) -> TrainConfig:
    """The preset's settings for a task, with some changed."""
    config = replace(configure(task, preset)[0], replay_mb=0, device="cpu", **changes)
    return config if update is None else replace(config, update=update)


class Watched(Training):
    """A training whose exact KL is that of the whole rollout, not of a part."""

    def measured(self, batch: Batch) -> Batch:
        """All of it."""
        return batch


@contextmanager
def training(config: TrainConfig, held: Held | None = None) -> Iterator[Training]:
    """A training that has been started, or one that goes on from a point with fresh episodes.

    Args:
        config: what to do.
        held: where to begin.
    """
    with ExitStack() as stack:
        environments = make_environments(config.environment, config.environments, backend=config.backend)
        stack.callback(environments.close)
        limit_threads(stack, config.device, images=bool(ObservationSpec.of(environments.observation_space).images))
        begun = Watched(config, environments)
        if held is None:
            begun.start()
        else:
            begun.load(*held)
            begun.restart()
        yield begun


def mean_return(begun: Training, seed: int, episodes: int = 16) -> float:
    """Mean return of whole episodes with sampled actions, by the policy as it is.

    Args:
        begun: whose policy.
        seed: of the episodes and the actions.
        episodes: as many environments take one each.
    """
    policy = LoadedPolicy(begun.policy)
    environments = gymnasium.make_vec(begun.config.environment, episodes, vectorization_mode="sync")
    try:
        observations, _ = environments.reset(seed=seed)
        totals, running = np.zeros(episodes), np.ones(episodes, bool)
        policy.seed(seed)
        while running.any():
            actions = policy.act(observations, deterministic=False)
            observations, rewards, terminated, truncated, _ = environments.step(actions)
            totals += rewards * running
            running &= ~(terminated | truncated)
        return float(totals.mean())
    finally:
        environments.close()


def iterate(begun: Training) -> tuple[dict[str, Any], float | None]:
    """One iteration: its metrics, and the mean return of the episodes that ended in it; None where none did."""
    before = begun.progress.episodes
    row = begun.iterate()
    ended = begun.progress.episodes - before
    recent = list(begun.recent.returns)[-ended:] if ended else []
    return row, (sum(recent) / len(recent) if recent else None)
