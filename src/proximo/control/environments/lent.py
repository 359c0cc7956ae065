"""An environment that is made already: it stays its owner's, who may go on with it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from proximo.control.environments.backends.shapes import rows_of, shaped_otherwise
from proximo.control.environments.base import AroundEnvironments, VectorEnvironment
from proximo.errors import UserError
from proximo.runs.plugins import place_of

if TYPE_CHECKING:
    from proximo.control.environments.visible_leaves import ObservationKeys

Source: TypeAlias = str | Callable[..., Any] | Any
"""A name, what makes an environment, or an environment (of Gymnasium, a vector of them, or one of ours)."""


class LentBatch(AroundEnvironments):
    """A batch that is left as it is and open."""

    def close(self) -> None:
        """Leaves it to its owner."""

    def take_statistics(self, statistics: Mapping[str, np.ndarray], *, fixed: bool) -> None:
        """See `VectorEnvironment.take_statistics`; what goes on after the training is not fixed."""
        if not fixed:
            super().take_statistics(statistics, fixed=fixed)


def copies(source: Source) -> int | None:
    """How many environments an object is that is made already; None for a name and for what makes them."""
    if isinstance(source, str | type) or source is None:
        return None
    import gymnasium

    if isinstance(source, gymnasium.Env):
        return 1
    if isinstance(source, gymnasium.vector.VectorEnv):
        return int(source.num_envs)
    if isinstance(source, VectorEnvironment):
        return source.count
    return rows_of(source)


def name_of(source: Source) -> str:
    """What a run calls its environment: a name as it is, and what it can be called where it has none.

    Raises:
        UserError: It is neither a name, nor makes an environment, nor is one.
    """
    if isinstance(source, str):
        return source
    if copies(source) is not None:
        return f"object:{_classes(source)}"
    if isinstance(source, ModuleType):
        raise UserError(
            f"{source.__name__} is a module and no environment: name the function in it that makes one, as in "
            f"{source.__name__.rpartition('.')[2]}.make or '{source.__name__}:make'"
        )
    if not callable(source):
        kind = type(source).__name__
        what = "None" if source is None else f"{'an' if kind[0] in 'aeiou' else 'a'} {kind}"
        several = isinstance(source, list | tuple | set | Mapping)
        raise UserError(
            f"{what} is no environment: give "
            + (
                "one function that makes one; `environments` says how many of them are stepped together"
                if several
                else "a name, a function that makes one, or a gymnasium.Env"
            )
        )
    return place_of(source)


def task_of(source: Source) -> str:
    """What an environment is called where its presets are listed: by its id, where Gymnasium made it."""
    known = getattr(getattr(source, "spec", None), "id", None) if copies(source) is not None else None
    return name_of(source) if known is None else str(known)


def lent(source: Any, options: Mapping[str, Any], backend: str, keys: ObservationKeys) -> VectorEnvironment:
    """An environment that is made already, as a batch.

    Raises:
        UserError: It can not be had in this way.
    """
    import gymnasium

    from proximo.control.environments.backends.gymnasium import GymnasiumEnvironments, vectorise

    name = name_of(source)
    if options:
        raise UserError(
            f"options = {dict(options)} are for what makes an environment, and {name} is made already: give a function"
        )
    if backend in ("envpool", "subprocess"):
        raise UserError(
            f"{name} is an object of this process and can not run on backend {backend!r}: give a function that makes it"
        )
    if isinstance(source, gymnasium.Env):
        return LentBatch(vectorise([lambda: source], name, keys, lent=True))
    if isinstance(source, gymnasium.vector.VectorEnv):
        return LentBatch(GymnasiumEnvironments(source, name, keys=keys))
    if (other := shaped_otherwise(source)) is not None:
        return LentBatch(other(source, name, keys))
    return LentBatch(kept(source, keys))


def kept(batch: VectorEnvironment, keys: ObservationKeys) -> VectorEnvironment:
    """A batch with what is kept of its observations."""
    from proximo.control.environments.visible_leaves import KeptEnvironments

    leaves = keys.kept(batch.observation_space, batch.name, batch.text)
    return batch if leaves.space is batch.observation_space else KeptEnvironments(batch, leaves)


def _classes(env: Any) -> str:
    """The classes of an environment and its wrappers, from the inside out."""
    import gymnasium

    names = [type(env).__name__]
    while isinstance(env, gymnasium.Wrapper | gymnasium.vector.VectorWrapper):
        env = env.env
        names.insert(0, type(env).__name__)
    return ".".join(names)
