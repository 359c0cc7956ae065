"""Returns and lengths of episodes, counted once, from the task's own rewards."""

from __future__ import annotations

import numpy as np

from proximo.control.environments.base import Step


class EpisodeCounter:
    """Counts every episode of N environments from its first step to its real end.

    Clipped rewards, lost lives and rows that only report a reset do not disturb it.
    """

    def __init__(self, count: int) -> None:
        self._returns = np.zeros(count, dtype=np.float64)
        self._lengths = np.zeros(count, dtype=np.int64)

    def update(self, step: Step) -> list[tuple[float, int]]:
        """Adds one step.

        Returns:
            (return, length in steps) of each episode that this step ended, in the order of the environments.
        """
        self._returns += np.where(step.valid, step.raw_reward, 0.0)
        self._lengths += step.valid
        over = step.episode_over & step.valid
        if not over.any():
            return []
        ended = [(float(self._returns[i]), int(self._lengths[i])) for i in np.flatnonzero(over)]
        self._returns[over] = 0.0
        self._lengths[over] = 0
        return ended

    def unfinished(self) -> list[tuple[float, int]]:
        """(return, length in steps) so far of the episode in progress in each environment."""
        return [(float(value), int(length)) for value, length in zip(self._returns, self._lengths, strict=True)]

    def restart(self) -> None:
        """Forgets the episodes in progress, as a reset of the environments does."""
        self._returns[:] = 0.0
        self._lengths[:] = 0
