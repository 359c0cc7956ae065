"""Who moves for the seats of a game that are not learnt in: another policy, or chance."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from proximo.control.spaces.masks import choices_of

if TYPE_CHECKING:
    import gymnasium

    from proximo.control.environments.base import Observation


RANDOM = "a random player"
"""Whom an evaluation plays against if nobody is named."""


class OpponentError(RuntimeError):
    """An opponent failed to move: no fault of the game."""


class Opponents(Protocol):
    """Moves for others."""

    def restart(self, seed: int) -> None:
        """All games start anew; whatever is drawn from here on follows from `seed`."""

    def draw(self, kind: float, which: float) -> int:
        """Which opponent a new game is against, from two uniform numbers of that game."""

    def act(self, observation: Observation, mask: np.ndarray | None, who: np.ndarray) -> Any:
        """Actions, as the environment takes them.

        Args:
            observation: of the seats to move, a batch with leading axis `[n]`.
            mask: bool `[n, K]`: what they may do, where the game says so.
            who: int `[n]`: which opponent each is.
        """


class Game(Protocol):
    """Environments in which somebody else moves, too."""

    who: np.ndarray
    """int `[N]`: the opponent in each, as `Opponents.draw` gave it; may be written to."""

    def play_against(self, opponents: Opponents) -> None:
        """Let them move from the next reset on."""


class RandomPlayer:
    """Takes any move that is allowed, all with the same chance.

    Args:
        space: the actions of one seat.
    """

    def __init__(self, space: gymnasium.Space) -> None:
        self._space, self._choices = space, choices_of(space)
        self._chance = np.random.default_rng(0)

    def restart(self, seed: int) -> None:
        """See `Opponents.restart`."""
        self._chance = np.random.default_rng(seed)
        self._space.seed(seed % 2**31)

    def draw(self, kind: float, which: float) -> int:
        """See `Opponents.draw`: there is one."""
        return 0

    def act(self, observation: Observation, mask: np.ndarray | None, who: np.ndarray) -> Any:
        """See `Opponents.act`."""
        if mask is None:
            return np.stack([self._space.sample() for _ in who])
        # The largest of uniform numbers, one for each allowed choice, is any of them with the same chance.
        drawn = np.where(mask, self._chance.random(mask.shape), -1.0)
        ends = np.cumsum(self._choices)
        columns = [part.argmax(1) for part in np.split(drawn, ends[:-1], axis=1)]
        chosen = np.stack(columns, 1) if self._space.shape else columns[0]
        return chosen + getattr(self._space, "start", 0)
