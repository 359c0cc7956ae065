"""Games in the shape of PettingZoo's `AECEnv`, whose agents move in turn: a row is one seat of one copy."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from proximo.control.environments.backends.pettingzoo import ManyAgents, stacked
from proximo.control.environments.base import Observation, Step
from proximo.control.environments.games import OpponentError, Opponents, RandomPlayer
from proximo.control.environments.visible_leaves import ALL_KEYS, ObservationKeys
from proximo.control.spaces.masks import MaskReader, choices_of, flat_masks
from proximo.control.spaces.trees import take_row
from proximo.errors import UserError

_METHODS = ("possible_agents", "observation_space", "action_space", "reset", "step", "observe", "last")
_EMPTY_GAMES = 1000
"""Games in a row that may end before their row's first move; a game in which all do is broken."""


def is_in_turn(env: Any) -> bool:
    """Whether an object has the methods of an `AECEnv` (pettingzoo/utils/env.py), before its first reset too."""
    return not isinstance(env, type) and all(hasattr(env, name) for name in _METHODS)


class TurnEnvironments(ManyAgents):
    """Copies of an `AECEnv`. A row has one seat of its copy, another one in each game; opponents move for the others.

    A step is a move of that seat and all moves of others until it is to move again, or its game is over. So a reward is
    what that seat is paid between two of its moves (in a zero-sum game the sign is the seat's own), and the next state
    is the next one in which it chooses: nothing else has to know that this is a game.

    Args:
        games: copies with the same agents.
        name: what the user calls them.
        keys: what of their observations is kept.

    Raises:
        UserError: agents have different spaces.
    """

    def __init__(self, games: Sequence[Any], name: str, keys: ObservationKeys = ALL_KEYS) -> None:
        super().__init__(games, name, keys)
        self.count = len(games)
        self._mask_key, self._choices = keys.mask_key or "action_mask", choices_of(self.action_space)
        self._masks = MaskReader.of(self.action_space)
        others = f"{len(self._agents) - 1} other seat{'s' if len(self._agents) > 2 else ''}"
        self.notes = (*self.notes, f"a step is one move; opponents move for {others}, and seats change each game")
        self._opponents: Opponents = RandomPlayer(self.action_space)
        self.who = np.zeros(self.count, np.int64)
        self.seats = np.zeros(self.count, np.int64)
        """int `[N]`: which of the agents each row is in its present game."""

    @property
    def game(self) -> TurnEnvironments:
        """See `VectorEnvironment.game`."""
        return self

    def play_against(self, opponents: Opponents) -> None:
        """See `Game.play_against`."""
        self._opponents = opponents

    def reset(self, seeds: Sequence[int]) -> tuple[Observation, np.ndarray | None]:
        """See `VectorEnvironment.reset`."""
        self._chances = [np.random.default_rng(abs(int(seed))) for seed in seeds]
        self._begun, self._paid = np.zeros(self.count, np.int64), np.zeros(self.count)
        self._turns: list[Any] = [None] * self.count
        self._opponents.restart(int(seeds[0]))
        self._begin(range(self.count))
        return self._batch(range(self.count))

    def step(self, actions: Any) -> Step:
        """See `VectorEnvironment.step`."""
        for row, game in enumerate(self._copies):
            game.step(take_row(actions, row))
        self._until_their_turn(range(self.count))
        reward = np.array([turn[1] for turn in self._turns], np.float64)
        over = np.array([bool(turn[2]) for turn in self._turns])
        cut = np.array([bool(turn[3]) for turn in self._turns]) & ~over
        final, mask = self._batch(range(self.count))
        observation, ended = final, over | cut
        if ended.any():
            self._begin(np.flatnonzero(ended))
            observation, mask = self._batch(range(self.count))
        valid, said = np.ones(self.count, bool), self._results(reward, ended)
        return Step(observation, final, reward, over, cut, valid, ended, reward, reward, ended, mask, said)

    def _results(self, reward: np.ndarray, ended: np.ndarray) -> dict[str, np.ndarray]:
        """Of the games that this step ended, by the sign of all that they paid; NaN in the rows of others."""
        self._paid += reward
        result = np.sign(self._paid)
        self._paid[ended] = 0.0
        signs = {"won": 1.0, "drawn": 0.0, "lost": -1.0}
        return {f"log/{name}": np.where(ended, result == sign, np.nan) for name, sign in signs.items()}

    def _begin(self, rows: Iterable[int]) -> None:
        """Start a game in each of these rows, up to the first move of its own seat."""
        waiting = list(rows)
        for _ in range(_EMPTY_GAMES):
            for row in waiting:
                chance = self._chances[row]
                self.seats[row] = (row + self._begun[row]) % len(self._agents)
                self._begun[row] += 1
                self.who[row] = self._opponents.draw(*chance.random(2))
                self._copies[row].reset(seed=int(chance.integers(2**31)))
            self._until_their_turn(waiting)
            waiting = [row for row in waiting if self._turns[row][2] or self._turns[row][3]]
            if not waiting:
                return
        raise UserError(
            f"{self.name}: {_EMPTY_GAMES} games in a row were over before the first move of the seat that learns: mend "
            "its terminations and truncations"
        )

    def _until_their_turn(self, rows: Iterable[int]) -> None:
        """Let opponents move in these rows until the row's own seat is to move or its game is over."""
        waiting = [row for row in rows if not self._is_due(row)]
        while waiting:
            seen, mask = self._batch(waiting)
            if isinstance(seen, dict) and self._mask_key in seen:
                mask = flat_masks(seen[self._mask_key], self._choices)
            try:
                moves = self._opponents.act(seen, mask, self.who[waiting])
            except UserError:
                raise
            except Exception as error:
                raise OpponentError(f"an opponent in {self.name} failed to move: {error}") from error
            for place, row in enumerate(waiting):
                self._copies[row].step(take_row(moves, place))
            waiting = [row for row in waiting if not self._is_due(row)]

    def _is_due(self, row: int) -> bool:
        """Whether the row's own seat is next, dead agents apart, who only leave; notes what the next one sees."""
        game, own = self._copies[row], self._agents[self.seats[row]]
        while True:
            seen, reward, over, cut, info = game.last()
            if game.agent_selection == own or not (over or cut):
                self._turns[row] = self._kept.take(seen), reward, over, cut, info
                return bool(game.agent_selection == own)
            game.step(None)

    def _batch(self, rows: Iterable[int]) -> tuple[Any, np.ndarray | None]:
        """What those to move in these rows see, and what they may do."""
        turns = [self._turns[row] for row in rows]
        masks = [turn[4].get("action_mask") for turn in turns]
        mask = None if all(x is None for x in masks) else np.stack([self._read(x) for x in masks])
        return stacked([turn[0] for turn in turns]), mask

    def _read(self, mask: Any) -> np.ndarray:
        return np.ones(self._masks.size, bool) if mask is None else self._masks.read(mask)

    def render(self) -> np.ndarray | None:
        """See `VectorEnvironment.render`."""
        drawn: np.ndarray | None = self._copies[0].render()
        return drawn
