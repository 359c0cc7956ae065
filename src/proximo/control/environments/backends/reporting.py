"""One environment that says where it failed."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np

from proximo.control.environments.backends.answers import (
    RAW_REWARD,
    TASK_REWARD,
    WrongAnswerError,
    old_signature,
    read_reset,
    read_step,
)
from proximo.control.environments.episodes import first_episode
from proximo.control.environments.problems import closing_told, failure, require_spaces, space_problem
from proximo.control.environments.visible_leaves import ALL_KEYS, ObservationKeys
from proximo.control.environments.wrappers import statistics
from proximo.control.environments.wrappers.recording import RewardRecorder
from proximo.control.spaces.masks import MaskReader
from proximo.control.spaces.trees import map_leaves
from proximo.errors import FOREIGN, UserError

FAILURE = "proximo.failure"
"""The key of a subprocess's infos under which a failure travels to the parent."""


class ReportingEnvironment(gymnasium.Wrapper):
    """Turns whatever goes wrong inside one environment into a UserError with its index, step, action and traceback.

    Where the user's wrappers change the reward, it says in the infos what the task itself paid. Of the user's own infos
    it passes on what is used.
    """

    def __init__(self, env: gymnasium.Env, name: str, index: int, keys: ObservationKeys = ALL_KEYS) -> None:
        super().__init__(env)
        require_spaces(env, name)
        # A copy, since the vector environment writes into it; what is no dict says nothing.
        said = env.metadata
        self.metadata = dict(said) if isinstance(said, Mapping) else {}
        self.kept = keys.kept(env.observation_space, name)
        self.observation_space = self.kept.space
        self._name, self._index, self._steps = name, index, 0
        self._recorder, self._masks = RewardRecorder(env), MaskReader.of(env.action_space)
        self._longest_first, self._left = 0, 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """See `gymnasium.Env.reset`."""
        when = f"in the reset after its step {self._steps}"
        try:
            # Many people's reset takes no options, and nobody here gives any.
            answer = self.env.reset(seed=seed, **({} if options is None else {"options": options}))
            observation, info = read_reset(answer, self._masks)
        except WrongAnswerError as wrong:
            raise self._wrong(wrong, when) from None
        except FOREIGN as error:
            if old := old_signature(error):
                raise self._wrong(old, when) from error
            raise self._failed(when, error) from error
        self._left = first_episode(seed, self._longest_first)
        self._recorder.follow()
        self._recorder.take(0.0)  # rewards of the reset belong to no episode
        return self._checked(observation), info

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """See `gymnasium.Env.step`."""
        self._steps += 1
        try:
            observation, reward, terminated, truncated, info = read_step(self.env.step(action), self._masks)
        except WrongAnswerError as wrong:
            raise self._wrong(wrong, f"at its step {self._steps}") from None
        except FOREIGN as error:
            raise self._failed(f"at its step {self._steps} (last action {shown(action)})", error) from error
        if self._recorder.recording:
            given = info.get(RAW_REWARD, reward)
            if (paid := float(self._recorder.take(given))) != given:
                info[TASK_REWARD] = paid
        self._left -= 1
        return self._checked(observation), reward, terminated, truncated or self._left == 0, info

    def proximo_stagger(self, longest: int) -> None:
        """From the next reset with a seed on, see `VectorEnvironment.stagger`."""
        self._longest_first = longest

    @property
    def sentences(self) -> tuple[str, ...]:
        """What a person who trains in it has to know."""
        return (*self.kept.notes, *statistics.notes(self.env), *masks_not_asked(self.env))

    def proximo_statistics(self) -> dict[str, np.ndarray]:
        """What the wrappers have learnt; see `statistics.read`."""
        return statistics.read(self.env)

    def proximo_take_statistics(self, learnt: statistics.Statistics, fixed: bool) -> None:
        """Gives the wrappers what `proximo_statistics` gave, with an axis for copies."""
        statistics.write(self.env, learnt, self._index, fixed=fixed)

    def close(self) -> None:
        """See `gymnasium.Env.close`; one that fails is told, for nothing that was learnt may be lost by it."""
        self._recorder.close()
        with closing_told(f"environment {self._index} of {self._name}"):
            super().close()

    def _checked(self, observation: Any) -> Any:
        # A copy: the environment may write into the same buffer again, also for the next episode or another copy of it.
        observation = self.kept.take(observation)
        observation = observation.copy() if type(observation) is np.ndarray else map_leaves(_copied, observation)
        problem = space_problem(self.observation_space, observation)
        if problem is not None:
            raise UserError(
                f"environment {self._index} of {self._name} returned an observation {problem} at its step "
                f"{self._steps}: make it return what its observation space says"
            )
        return observation

    def _failed(self, when: str, error: BaseException) -> UserError:
        return failure(f"environment {self._index} of {self._name}", when, error)

    def _wrong(self, answer: WrongAnswerError, when: str) -> UserError:
        return UserError(f"environment {self._index} of {self._name}, {when}, {answer}")


class LentEnvironment(ReportingEnvironment):
    """One that somebody else made and goes on using: it is left open."""

    def close(self) -> None:
        """See `gymnasium.Env.close`."""
        self._recorder.close()


class RemoteEnvironment(ReportingEnvironment):
    """Sends a failure to the parent in the infos, because an exception would lose its text on the way."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """See `gymnasium.Env.reset`."""
        try:
            return super().reset(seed=seed, options=options)
        except UserError as error:
            return self.observation_space.sample(), {FAILURE: str(error)}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """See `gymnasium.Env.step`."""
        try:
            return super().step(action)
        except UserError as error:
            return self.observation_space.sample(), 0.0, False, False, {FAILURE: str(error)}


def _copied(leaf: Any) -> Any:
    return leaf.copy() if isinstance(leaf, np.ndarray) else copy.copy(leaf)


def shown(action: Any) -> str:
    """An action on one line."""
    return (
        np.array2string(action, max_line_width=10**6, threshold=32) if isinstance(action, np.ndarray) else f"{action}"
    )


def masks_not_asked(env: Any) -> tuple[str, ...]:
    """Of a method that another library asks for masks, and Proximo does not: a sentence, or none."""
    inner = getattr(env, "unwrapped", env)
    if not callable(getattr(inner, "action_masks", None)):
        return ()
    return (
        f"the method action_masks of {type(inner).__name__} is not called: masks are read from info['action_mask'], or "
        "from a key action_mask of the observation",
    )
