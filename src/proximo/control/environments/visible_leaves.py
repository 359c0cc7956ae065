"""Which parts of a nested observation the policy sees: all that can be learnt from, or those that a setting names."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import gymnasium
import numpy as np

from proximo.control.environments.base import AroundEnvironments, Observation, Step, VectorEnvironment
from proximo.control.spaces.groups import matching
from proximo.control.spaces.leaves import Path, leaves
from proximo.errors import UserError

EVERYTHING = ("*",)
"""As names of `ObservationKeys`: whatever can be learnt from."""
_NOT = "not:"
_SETTING = "observation_keys or observations"
_PRIVILEGED = re.compile(r"privileged?|priv|critic", re.IGNORECASE)
"""How simulators call what they show to a critic and no robot can measure (MuJoCo Playground, Isaac Lab)."""
_WORDS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
"""The words of a name: `critic_obs`, `obs-critic`, `criticObs`."""


@dataclass(frozen=True)
class ObservationKeys:
    """What a run says about the observations of its environments."""

    names: tuple[str, ...] = ()
    """As `state` or `camera.depth`, patterns, or `not:NAME` for what is left out; () keeps all."""
    mask_key: str | None = None
    """The key that holds the action mask, which is kept; None finds `action_mask`."""

    def kept(self, space: gymnasium.Space, name: str, text: Collection[str] = ()) -> KeptLeaves:
        """What is kept of the observations of an environment; see `KeptLeaves.of`."""
        return KeptLeaves.of(space, self.names, self.mask_key, name=name, text=text)


ALL_KEYS = ObservationKeys(EVERYTHING)
"""For those who have nothing to decide."""


@dataclass(frozen=True)
class KeptLeaves:
    """The leaves of an observation that are kept.

    Attributes:
        space: What is left of the space. A Tuple that loses some becomes a Dict of its indices, so that paths stay.
        left_out: Names of leaves that are left out because they are text.
    """

    space: gymnasium.Space
    left_out: tuple[str, ...] = ()
    _paths: frozenset[Path] | None = None
    """None keeps all."""

    @classmethod
    def of(
        cls,
        space: gymnasium.Space,
        keys: Sequence[str] = (),
        mask_key: str | None = None,
        *,
        name: str,
        text: Collection[str] = (),
    ) -> KeptLeaves:
        """What is kept of a space.

        Args:
            space: Of one observation.
            keys: Names as `state` or `camera.depth`, patterns, or `not:NAME` for what is left out; () keeps all.
            mask_key: The key that holds the action mask; it is kept.
            name: What the user calls the task.
            text: Names of leaves that are text though their space does not say so.

        Raises:
            UserError: A name that is not there, a text that is asked for, nothing that is left, or a part that looks
                privileged and nobody has decided about.
        """
        every = {".".join(map(str, path)): path for path, _ in leaves(space)}
        if "" in every:
            if keys and tuple(keys) != EVERYTHING:
                raise UserError(
                    f"{_SETTING} = {list(keys)} name parts of an observation, and {name} shows only {space}: "
                    "leave them out"
                )
            return cls(space)
        mask = {leaf for leaf, path in every.items() if path[0] == (mask_key or "action_mask")}
        unread = {leaf for leaf, inner in zip(every, (x for _, x in leaves(space)), strict=True) if is_text(inner)}
        chosen = _chosen(set(every) - mask, keys, name)
        if spelt := unread & set(keys):
            raise UserError(
                f"observation_keys asks for {min(spelt)!r} of {name}, which is text, and a network reads numbers: "
                "leave it out, or turn it into numbers with gymnasium.wrappers.TransformObservation"
            )
        left_out = (unread | set(text) - set(keys)) & chosen
        kept = chosen - left_out
        if not kept:
            only = (
                f"only text ({', '.join(every)})" if every and unread == set(every) else ", ".join(every) or "no parts"
            )
            raise UserError(
                f"nothing of the observation of {name} is left to learn from: it has {only}; show numbers, as with "
                "gymnasium.wrappers.TransformObservation"
            )
        if not keys:
            _decide_privileged(kept, every, space, name)
        if kept | mask == set(every):
            return cls(space)
        paths = frozenset(every[leaf] for leaf in kept | mask)
        return cls(_pruned(space, paths, ()), tuple(sorted(left_out)), paths)

    def take(self, observation: Any) -> Any:
        """An observation, or a batch of them, without what is not kept.

        What does not have the space's structure is given back as it is, to be refused by who knows where it comes from.
        """
        return observation if self._paths is None else _taken(observation, self._paths, ())

    @property
    def notes(self) -> tuple[str, ...]:
        """What is left out without having been asked for, a sentence each."""
        return tuple(
            f"observation {leaf!r} is text and is left out (observation_keys names what the policy sees)"
            for leaf in self.left_out
        )


class KeptEnvironments(AroundEnvironments):
    """A batch of environments whose observations lose what is not kept."""

    def __init__(self, environments: VectorEnvironment, kept: KeptLeaves) -> None:
        super().__init__(environments)
        self._kept, self.observation_space = kept, kept.space
        self.notes = (*environments.notes, *kept.notes)

    def reset(self, seeds: Sequence[int]) -> tuple[Observation, np.ndarray | None]:
        """See `VectorEnvironment.reset`."""
        observation, mask = self._environments.reset(seeds)
        return self._kept.take(observation), mask

    def receive(self) -> Step:
        """See `VectorEnvironment.receive`."""
        step = self._environments.receive()
        seen = self._kept.take(step.observation)
        same = step.final_observation is step.observation
        final = seen if same else self._kept.take(step.final_observation)
        return replace(step, observation=seen, final_observation=final)


def is_text(space: gymnasium.Space) -> bool:
    """Whether a space is of strings, of Gymnasium's class or another (Minigrid has its own)."""
    if isinstance(space, gymnasium.spaces.Text):
        return True
    return space.dtype is not None and np.dtype(space.dtype).kind in "US"


def _chosen(names: set[str], keys: Sequence[str], name: str) -> set[str]:
    wanted = [matching(key, names, name, _SETTING) for key in keys if not key.startswith(_NOT)]
    dropped = [matching(key.removeprefix(_NOT), names, name, _SETTING) for key in keys if key.startswith(_NOT)]
    return (set().union(*wanted) if wanted else names) - set().union(*dropped)


def _looks_privileged(name: str) -> bool:
    return any(_PRIVILEGED.fullmatch(word) for word in _WORDS.findall(name))


def _decide_privileged(kept: set[str], every: Mapping[str, Path], space: gymnasium.Space, name: str) -> None:
    secret = {leaf for leaf in kept if any(map(_looks_privileged, map(str, every[leaf])))}
    if not secret:
        return
    sizes = {".".join(map(str, path)): int(np.prod(inner.shape or (1,))) for path, inner in leaves(space)}
    count = sum(sizes[leaf] for leaf in secret)
    rest = sorted(kept - secret)
    every_key = f"observation_keys = {sorted(kept)} (--observation-keys {' '.join(sorted(kept))})"
    ways = [f"{every_key} to let the policy see it"]
    if rest:
        roles = f"observations.actor = {rest} and observations.critic = {sorted(kept)}"
        typed = f"--observations.actor {' '.join(rest)} --observations.critic {' '.join(sorted(kept))}"
        left_out = f"observation_keys = {rest} (--observation-keys {' '.join(rest)}) to leave it out"
        ways = [left_out, f"{roles} ({typed}) to show it to the critic alone", *ways]
    raise UserError(
        f"{name} shows {' and '.join(map(repr, sorted(secret)))} ({count} numbers), which looks like what a simulator "
        f"knows and no robot measures: give {', or '.join(ways)}"
    )


def _pruned(space: gymnasium.Space, kept: frozenset[Path], path: Path) -> gymnasium.Space:
    if isinstance(space, gymnasium.spaces.Dict):
        parts: dict[Any, gymnasium.Space] = dict(space.spaces)
    elif isinstance(space, gymnasium.spaces.Tuple):
        parts = dict(enumerate(space.spaces))
    else:
        return space
    left = {key: _pruned(inner, kept, (*path, key)) for key, inner in parts.items() if _below(kept, (*path, key))}
    if isinstance(space, gymnasium.spaces.Tuple) and len(left) == len(parts):
        return gymnasium.spaces.Tuple(tuple(left.values()))
    return gymnasium.spaces.Dict(left)


def _taken(observation: Any, kept: frozenset[Path], path: Path) -> Any:
    if path in kept:
        return observation
    if isinstance(observation, tuple):
        parts = {i: _taken(x, kept, (*path, i)) for i, x in enumerate(observation) if _below(kept, (*path, i))}
        return tuple(parts.values()) if len(parts) == len(observation) else parts
    if isinstance(observation, Mapping):
        return {key: _taken(x, kept, (*path, key)) for key, x in observation.items() if _below(kept, (*path, key))}
    return observation


def _below(kept: frozenset[Path], path: Path) -> bool:
    return any(leaf[: len(path)] == path for leaf in kept)
