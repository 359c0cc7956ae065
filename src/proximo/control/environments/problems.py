"""What goes wrong in an environment, in words."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from proximo.errors import FOREIGN, UserError
from proximo.runs.console.streams import say
from proximo.runs.plugins import on_one_line


def failure(who: str, when: str, error: BaseException) -> UserError:
    """What a user's code raised: one sentence, and its traceback below it."""
    report = "".join(traceback.format_exception(error)).rstrip()
    return UserError(f"{who} failed {when}: {type(error).__name__}: {error}\n{report}")


@contextmanager
def closing_told(who: str) -> Iterator[None]:
    """Tells what fails while an environment is closed, and goes on: results wait to be written by then."""
    try:
        yield
    except FOREIGN as error:
        say(f"proximo: {who} failed while it was closed, which costs nothing of the run: {on_one_line(error)}")


def require_spaces(holder: Any, name: str, prefix: str = "") -> None:
    """Sees that an environment says what it takes and gives.

    Raises:
        UserError: It does not, or in the words of another package.
    """
    import gymnasium

    for space in (f"{prefix}observation_space", f"{prefix}action_space"):
        found = getattr(holder, space, None)
        if not isinstance(found, gymnasium.Space):
            what = "no" if found is None else f"a {type(found).__module__}.{type(found).__name__} as"
            raise UserError(f"{name} has {what} {space}: set it to a space of gymnasium.spaces when it is made")


def space_problem(space: Any, value: Any, batch: tuple[int, ...] = (), name: str = "") -> str | None:
    """What is wrong with the shape or type of `value`, as the end of a sentence; None when it fits.

    float64 where float32 was promised is fine, and so is what fits into the promised type without a loss of kind; a
    float where an integer was promised is not, because copying would cut it without a word.

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
        problems = [space_problem(parts[key], value[key], batch, f"{name}.{key}".lstrip(".")) for key in parts]
    elif isinstance(parts, tuple):
        if not isinstance(value, tuple) or len(value) != len(parts):
            return f"with {type(value).__name__}{where} where a tuple of {len(parts)} was promised"
        pairs = enumerate(zip(parts, value, strict=True))
        problems = [space_problem(part, item, batch, f"{name}.{i}".lstrip(".")) for i, (part, item) in pairs]
    else:
        promised = (*batch, *(space.shape or ()))
        found = value.shape if isinstance(value, np.ndarray) else np.shape(value)
        if found != promised:
            return f"of shape {found}{where} where {promised} was promised"
        given = value.dtype if isinstance(value, np.ndarray | np.generic) else np.asarray(value).dtype
        if space.dtype is None or given == space.dtype or np.can_cast(given, space.dtype, "same_kind"):
            return None
        return f"of type {given}{where} where {space.dtype} was promised"
    return next((problem for problem in problems if problem), None)
