"""Returns and lengths of episodes, counted once, from the rewards of the environment that was given."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from proximo.control.environments.base import Step


class Episode(NamedTuple):
    """One episode, or what there is of it so far."""

    value: float
    """Its return, undiscounted: of the environment as it was given."""
    length: int
    """Steps."""
    task_value: float
    """The return of the task itself, below the user's wrappers: another number where one of them changes the reward."""


def first_episode(seed: int | None, longest: int) -> int:
    """Steps after which the first episode of an environment with that seed is cut, 1 to `longest`; 0 for never."""
    return 0 if seed is None or not longest else 1 + int(np.random.default_rng(seed).integers(longest))


class EpisodeCounter:
    """Counts every episode of N environments from its first step to its real end.

    Clipped rewards, lost lives and rows that only report a reset do not disturb it.
    """

    def __init__(self, count: int) -> None:
        self._returns, self._task_returns = np.zeros((2, count), dtype=np.float64)
        self.lengths = np.zeros(count, dtype=np.int64)
        """Of the episodes in progress, int64 [N]."""
        self._firsts = np.zeros(count, dtype=np.int64)

    def update(self, step: Step) -> list[Episode]:
        """Adds one step.

        Returns:
            The episodes that this step ended, in the order of the environments.
        """
        self._returns += np.where(step.valid, step.raw_reward, 0.0)
        self._task_returns += np.where(step.valid, step.task_reward, 0.0)
        self.lengths += step.valid
        over = step.episode_over & step.valid
        if not over.any():
            return []
        # An episode that was cut so that not all of them end together is none. Simulators' clocks differ by a step.
        staggered = (self._firsts > 0) & (np.abs(self.lengths - self._firsts) <= 1) & ~step.terminated
        ended = self._episodes(np.flatnonzero(over & ~staggered))
        self._firsts[over] = 0
        self._returns[over] = self._task_returns[over] = 0.0
        self.lengths[over] = 0
        return ended

    def unfinished(self) -> list[Episode]:
        """What there is so far of the episode in progress in each environment."""
        return self._episodes(np.arange(len(self.lengths)))

    def restart(self, firsts: Sequence[int] = ()) -> None:
        """Forgets the episodes in progress, as a reset of the environments does.

        Args:
            firsts: Steps after which the first episode of each is cut on purpose, see `first_episode`; none are by
                default.
        """
        self._firsts[:] = firsts if len(firsts) else 0
        self._returns[:] = self._task_returns[:] = 0.0
        self.lengths[:] = 0

    def _episodes(self, rows: np.ndarray) -> list[Episode]:
        columns = (self._returns[rows], self.lengths[rows], self._task_returns[rows])
        return [Episode(float(value), int(length), float(task)) for value, length, task in zip(*columns, strict=True)]
