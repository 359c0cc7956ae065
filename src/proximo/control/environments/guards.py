"""What an environment may not return, said with the place where it did."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from proximo.control.environments.base import AroundEnvironments, Observation, Step, VectorEnvironment
from proximo.control.environments.games import OpponentError
from proximo.control.environments.problems import closing_told, failure, space_problem
from proximo.control.spaces.leaves import leaves
from proximo.control.spaces.masks import choices_of, closed_columns, flat_masks
from proximo.control.spaces.numbers import LARGEST_FLOAT32, fits_float32
from proximo.control.spaces.trees import named_leaves
from proximo.errors import FOREIGN, UserError

if TYPE_CHECKING:
    import gymnasium

_DIVERGED = "mend the environment, or end its episode before it diverges"
_TOO_LARGE = f"a policy reads float32, which ends at {LARGEST_FLOAT32:.1e}, so scale it down"


class GuardedEnvironments(AroundEnvironments):
    """Refuses what can not be learnt from before it reaches a statistic or a gradient.

    That is NaN, infinities, shapes, types and choices that the space does not have, masks that allow nothing, and
    whatever the environments raise.

    Args:
        environments: What is guarded.
        mask_key: Key of a Dict observation that holds the action mask.

    Raises:
        UserError: From `reset` and `receive`, naming the environment, its step and the offending entry.
    """

    def __init__(self, environments: VectorEnvironment, mask_key: str = "action_mask") -> None:
        super().__init__(environments)
        self._steps = np.zeros(self.count, dtype=np.int64)
        self._calls = 0
        self._forms: list[tuple[tuple[int, ...], np.dtype]] | None = None
        self._ranges = dict(_ranges(self.observation_space))
        self._choices = choices_of(self.action_space)
        self._mask_key = mask_key if mask_key in (getattr(self.observation_space, "spaces", None) or ()) else None

    def reset(self, seeds: Sequence[int]) -> tuple[Observation, np.ndarray | None]:
        """See `VectorEnvironment.reset`."""
        self._steps[:] = 0
        self._calls = 0
        observation, mask = self._asked(self._environments.reset, seeds)
        self._check_form(observation)
        self._check_values(observation)
        self._check_masks(observation, mask, np.zeros(self.count, bool))
        return observation, mask

    def send(self, actions: Any) -> None:
        """See `VectorEnvironment.send`."""
        self._calls += 1
        self._asked(self._environments.send, actions)

    def receive(self) -> Step:
        """See `VectorEnvironment.receive`."""
        step = self._asked(self._environments.receive)
        self._steps += step.valid
        self._check_form(step.observation)
        self._check_values(step.observation)
        if step.final_observation is not step.observation:
            self._check_form(step.final_observation)
            self._check_values(step.final_observation)
        if not np.isfinite(step.reward).all():
            self._refuse("reward", step.reward, np.isfinite(step.reward), _DIVERGED)
        # Where the next step only reports a reset, nothing is chosen in the state that ended the episode.
        self._check_masks(step.observation, step.mask, (step.terminated | step.truncated) & ~step.started)
        return step

    def close(self) -> None:
        """See `VectorEnvironment.close`; one that fails is told."""
        with closing_told(self.name):
            super().close()

    def _asked(self, method: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return method(*arguments)
        except (UserError, OpponentError):
            raise
        except FOREIGN as error:
            raise failure(self.name, self._now(), error) from error

    def _check_form(self, observation: Observation) -> None:
        forms = [(leaf.shape, leaf.dtype) for _, leaf in named_leaves(observation)]
        if forms == self._forms:
            return
        problem = space_problem(self.observation_space, observation, (self.count,))
        if problem is not None:
            raise UserError(
                f"{self.name} returned a batch of {self.count} observations {problem} {self._now()}: make it return "
                "what its observation space says"
            )
        self._forms = forms

    def _check_values(self, observation: Observation) -> None:
        for key, leaf in named_leaves(observation):
            what = f"observation {key!r}" if key else "observation"
            if leaf.dtype.kind == "f":
                fine = fits_float32(leaf)
                if not fine.all():
                    self._refuse(what, leaf, fine, _DIVERGED if not np.isfinite(leaf[~fine][0]) else _TOO_LARGE)
            elif key in self._ranges:
                low, high = self._ranges[key]
                fine = (leaf >= low) & (leaf < high)
                if not fine.all():
                    self._refuse(what, leaf, fine, "correct its observation space or what it returns")

    def _check_masks(self, observation: Any, mask: np.ndarray | None, unused: np.ndarray) -> None:
        if mask is not None:
            self._check_mask(mask, "info['action_mask']", unused)
        if self._mask_key is not None:
            held = flat_masks(observation[self._mask_key], self._choices)
            self._check_mask(held, f"observation[{self._mask_key!r}]", unused)

    def _check_mask(self, mask: np.ndarray, where: str, unused: np.ndarray) -> None:
        if not self._choices or mask.shape[-1] != sum(self._choices):
            return  # what it should be is said where a policy meets it
        closed = closed_columns(mask, self._choices) & ~unused[:, None]
        if closed.any():
            index, column = (int(i) for i in np.argwhere(closed)[0])
            what = "no action" if len(self._choices) == 1 else f"no choice in column {column} of its action"
            raise UserError(
                f"environment {index} of {self.name} allowed {what} {self._when(index)}: its {where} must leave at "
                "least one"
            )

    def _refuse(self, what: str, values: np.ndarray, fine: np.ndarray, cure: str) -> None:
        place = np.argwhere(~fine)[0]
        index, entry = int(place[0]), ", ".join(str(i) for i in place[1:])
        raise UserError(
            f"environment {index} of {self.name} returned {values[tuple(place)]} in its {what}"
            f"{f' [{entry}]' if entry else ''} {self._when(index)}: {cure}"
        )

    def _when(self, index: int) -> str:
        return f"at its step {self._steps[index]}" if self._steps[index] else "at its first reset"

    def _now(self) -> str:
        return f"at its step {self._calls}" if self._calls else "at its first reset"


def _ranges(space: gymnasium.Space) -> Iterator[tuple[str, tuple[Any, Any]]]:
    """Of each choice in an observation, by its name: the smallest value, and the first that is too large."""
    from gymnasium.spaces import Discrete, MultiDiscrete

    for path, leaf in leaves(space):
        name = ".".join(map(str, path))
        if isinstance(leaf, Discrete):
            yield name, (leaf.start, leaf.start + leaf.n)
        elif isinstance(leaf, MultiDiscrete):
            yield name, (leaf.start, leaf.start + leaf.nvec)
