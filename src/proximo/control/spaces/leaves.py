"""Walking through nested spaces."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import gymnasium

Path = tuple[str | int, ...]
"""Keys and indices from the root of a nested space to a leaf; empty for a space that is not nested."""


def leaves(space: gymnasium.Space, path: Path = ()) -> Iterator[tuple[Path, gymnasium.Space]]:
    """Every space inside Dict and Tuple spaces with its path, in the order of the space."""
    import gymnasium  # here, so that who only names an environment need not load it

    if isinstance(space, gymnasium.spaces.Dict):
        for key, inner in space.spaces.items():
            yield from leaves(inner, (*path, key))
    elif isinstance(space, gymnasium.spaces.Tuple):
        for index, inner in enumerate(space.spaces):
            yield from leaves(inner, (*path, index))
    else:
        yield path, space


def place(path: Path) -> str:
    """` at a.b` for an error message; empty at the root."""
    return f" at {'.'.join(map(str, path))}" if path else ""
