"""What an environment may not return, said with the place where it did."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from proximo.control.environments.base import Observation, Step, VectorEnvironment
from proximo.control.environments.trees import named_leaves
from proximo.control.masks import choices_of, closed_columns
from proximo.runs.errors import UserError


class GuardedEnvironments(VectorEnvironment):
    """Refuses NaN, infinities, wrong shapes and masks that allow nothing, before they reach a statistic or a gradient.

    Args:
        environments: What is guarded.
        mask_key: Key of a Dict observation that holds the action mask.

    Raises:
        UserError: From `reset` and `receive`, naming the environment, its step and the offending entry.
    """

    def __init__(self, environments: VectorEnvironment, mask_key: str = "action_mask") -> None:
        self._environments = environments
        self.name, self.backend, self.count = environments.name, environments.backend, environments.count
        self.observation_space, self.action_space = environments.observation_space, environments.action_space
        self._steps = np.zeros(self.count, dtype=np.int64)
        self._shapes: list[tuple[int, ...]] | None = None
        self._choices = choices_of(self.action_space)
        self._mask_key = mask_key if mask_key in (getattr(self.observation_space, "spaces", None) or ()) else None

    def reset(self, seeds: Sequence[int]) -> tuple[Observation, np.ndarray | None]:
        """See `VectorEnvironment.reset`."""
        observation, mask = self._environments.reset(seeds)
        self._steps[:] = 0
        self._check_shapes(observation)
        self._check_values(observation)
        self._check_masks(observation, mask, np.zeros(self.count, bool))
        return observation, mask

    def step(self, actions: Any) -> Step:
        """See `VectorEnvironment.step`."""
        self.send(actions)
        return self.receive()

    def send(self, actions: Any) -> None:
        """See `VectorEnvironment.send`."""
        self._environments.send(actions)

    def receive(self) -> Step:
        """See `VectorEnvironment.receive`."""
        step = self._environments.receive()
        self._steps += step.valid
        if [leaf.shape for _, leaf in named_leaves(step.observation)] != self._shapes:
            self._check_shapes(step.observation)
        self._check_values(step.observation)
        if step.final_observation is not step.observation:
            self._check_values(step.final_observation)
        if not np.isfinite(step.reward).all():
            self._refuse("reward", step.reward)
        # Where the next step only reports a reset, nothing is chosen in the state that ended the episode.
        self._check_masks(step.observation, step.mask, (step.terminated | step.truncated) & ~step.started)
        return step

    def close(self) -> None:
        """See `VectorEnvironment.close`."""
        self._environments.close()

    def _check_shapes(self, observation: Observation) -> None:
        problem = shape_problem(self.observation_space, observation, (self.count,))
        if problem is not None:
            raise UserError(
                f"{self.name} returned a batch of {self.count} observations {problem}: make it return what its "
                "observation space says"
            )
        self._shapes = [leaf.shape for _, leaf in named_leaves(observation)]

    def _check_values(self, observation: Observation) -> None:
        for key, leaf in named_leaves(observation):
            if leaf.dtype.kind == "f" and not np.isfinite(leaf).all():
                self._refuse(f"observation {key!r}" if key else "observation", leaf)

    def _check_masks(self, observation: Any, mask: np.ndarray | None, unused: np.ndarray) -> None:
        if mask is not None:
            self._check_mask(mask, "info['action_mask']", unused)
        if self._mask_key is not None:
            held = np.asarray(observation[self._mask_key]).reshape(self.count, -1).astype(bool)
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

    def _refuse(self, what: str, values: np.ndarray) -> None:
        place = np.argwhere(~np.isfinite(values))[0]
        index, entry = int(place[0]), ", ".join(str(i) for i in place[1:])
        raise UserError(
            f"environment {index} of {self.name} returned {values[tuple(place)]} in its {what}"
            f"{f' [{entry}]' if entry else ''} {self._when(index)}: mend the environment, or end its episode before it "
            "diverges"
        )

    def _when(self, index: int) -> str:
        return f"at its step {self._steps[index]}" if self._steps[index] else "at its first reset"


def shape_problem(space: Any, value: Any, batch: tuple[int, ...] = (), name: str = "") -> str | None:
    """What is wrong with the shape of `value`, as the end of a sentence; None when it fits.

    Args:
        space: The gymnasium space of one observation.
        value: An observation, or a batch of them.
        batch: The leading axes that `value` has besides those of `space`: () or (N,).
        name: Where in a nested observation this is.
    """
    where = f" under {name!r}" if name else ""
    parts = getattr(space, "spaces", None)
    if isinstance(parts, dict):
        if not isinstance(value, dict) or value.keys() != parts.keys():
            found = sorted(value) if isinstance(value, dict) else type(value).__name__
            return f"with {found}{where} where a dict of {sorted(parts)} was promised"
        problems = [shape_problem(parts[key], value[key], batch, f"{name}.{key}".lstrip(".")) for key in parts]
    elif isinstance(parts, tuple):
        if not isinstance(value, tuple) or len(value) != len(parts):
            return f"with {type(value).__name__}{where} where a tuple of {len(parts)} was promised"
        pairs = enumerate(zip(parts, value, strict=True))
        problems = [shape_problem(part, item, batch, f"{name}.{i}".lstrip(".")) for i, (part, item) in pairs]
    else:
        promised = (*batch, *(space.shape or ()))
        found = value.shape if isinstance(value, np.ndarray) else np.shape(value)
        return None if found == promised else f"of shape {found}{where} where {promised} was promised"
    return next((problem for problem in problems if problem), None)
