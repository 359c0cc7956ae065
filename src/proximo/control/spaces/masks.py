"""Action masks: one entry for each choice, the choices of one column of the action side by side."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from proximo.control.spaces.leaves import Path, leaves

if TYPE_CHECKING:
    import gymnasium


class MaskReader:
    """Reads masks as people and Gymnasium write them, into bool `[K]` with `K = sum(choices)`.

    That is one flat row of entries; a row for each column (lists of different lengths, or a table that is padded to the
    longest); or, for Dict and Tuple spaces, a dict or tuple with a mask for each part, None where it forbids nothing.

    Args:
        parts: Path and choices of each part of the action that has choices, in the space's order.
        space: What the action space is, for messages.
    """

    def __init__(self, parts: Sequence[tuple[Path, tuple[int, ...]]], space: str) -> None:
        self._parts, self._space = parts, space
        self.size = sum(sum(columns) for _, columns in parts)

    @classmethod
    def of(cls, space: gymnasium.Space) -> MaskReader:
        """For an action space."""
        parts = [(path, columns) for path, leaf in leaves(space) if (columns := choices_of(leaf))]
        return cls(parts, f"the action space {space}")

    def read(self, mask: Any) -> np.ndarray:
        """The mask as bool `[K]`.

        Raises:
            ValueError: It does not have one entry for each choice; the message is the end of a sentence.
        """
        if not self.size:
            raise ValueError(
                f"a mask, and {self._space} has no choices that could be forbidden: leave it out, or make the action "
                "Discrete or MultiDiscrete"
            )
        if isinstance(mask, np.ndarray) and mask.shape == (self.size,) and mask.dtype.kind in "biu":
            return mask.astype(bool)
        try:
            entries = list(_entries(mask, self._parts))
        except (TypeError, ValueError, LookupError):
            raise ValueError(f"a mask that can not be read: {self._wanted()}") from None
        if len(entries) != self.size or not all(entry in (0, 1) for entry in entries):
            what = f"{len(entries)} entries" if len(entries) != self.size else "other entries than true and false"
            raise ValueError(f"a mask with {what}: {self._wanted()}")
        return np.array(entries, dtype=bool)

    def _wanted(self) -> str:
        return f"{self._space} needs one entry (true or false) for each of its {self.size} choices, in their order"


def _entries(mask: Any, parts: Sequence[tuple[Path, tuple[int, ...]]]) -> Iterator[Any]:
    """The entries of a mask for some parts of an action, in the parts' order."""
    if isinstance(mask, Mapping):
        for key in dict.fromkeys(path[0] for path, _ in parts):
            yield from _entries(mask[key], [(path[1:], columns) for path, columns in parts if path[0] == key])
    elif isinstance(mask, tuple) and parts and all(path and isinstance(path[0], int) for path, _ in parts):
        yield from _entries(dict(enumerate(mask)), parts)
    elif mask is None:
        yield from [True] * sum(sum(columns) for _, columns in parts)
    else:
        if _is_nested(mask) and len(mask) == 1 < sum(len(columns) for _, columns in parts):
            raise ValueError("one row for several columns")
        flat = list(_flat(mask))
        yield from _without_padding(flat, parts[0][1]) if len(parts) == 1 and _is_nested(mask) else flat


def _without_padding(flat: list[Any], columns: tuple[int, ...]) -> list[Any]:
    """The entries of a table `[columns, choices of the longest]`; those of another form as they are."""
    longest = max(columns)
    if len(flat) == sum(columns) or len(flat) != len(columns) * longest:
        return flat
    return [x for row, count in enumerate(columns) for x in flat[row * longest : row * longest + count]]


def flat_masks(held: Any, columns: Sequence[int]) -> np.ndarray:
    """The masks in a batch of observations, bool `[N, K]`.

    Args:
        held: `[N, ...]`: rows, tables (padded to the longest column, too), or a tuple or dict of these for each column.
        columns: Choices of each column of the action.
    """
    if isinstance(held, Mapping | tuple):
        parts = [flat_masks(part, ()) for part in (held.values() if isinstance(held, Mapping) else held)]
        return np.concatenate(parts, 1)
    held = np.asarray(held)
    flat = held.reshape(len(held), -1).astype(bool)
    if is_padded(held.shape[1:], columns):
        flat = flat[:, np.concatenate([np.arange(max(columns)) < count for count in columns])]
    return flat


def is_padded(shape: tuple[int, ...], columns: Sequence[int]) -> bool:
    """Whether a mask of a shape is a table whose shorter columns are padded."""
    return len(shape) == 2 and len(set(columns)) > 1 and shape == (len(columns), max(columns))


def _is_nested(mask: Any) -> bool:
    return np.ndim(mask[0]) > 0 if isinstance(mask, list | tuple) else np.ndim(mask) > 1


def _flat(mask: Any) -> Iterator[Any]:
    """All entries of lists within lists, which may differ in length."""
    if isinstance(mask, list | tuple):
        for part in mask:
            yield from _flat(part)
    else:
        yield from np.asarray(mask.detach().cpu() if hasattr(mask, "detach") else mask).reshape(-1).tolist()


def choices_of(space: gymnasium.Space) -> tuple[int, ...]:
    """How many choices each choice column of an action space has: `(2, 3)` for `MultiDiscrete([2, 3])`."""
    from gymnasium.spaces import Discrete, MultiDiscrete

    choices: list[int] = []
    for _, leaf in leaves(space):
        if isinstance(leaf, Discrete):
            choices.append(int(leaf.n))
        elif isinstance(leaf, MultiDiscrete):
            choices.extend(int(n) for n in leaf.nvec.reshape(-1))
    return tuple(choices)


def closed_columns(mask: np.ndarray, choices: Sequence[int]) -> np.ndarray:
    """Where a mask bool `[N, sum(choices)]` leaves nothing to choose: bool `[N, columns]`."""
    starts = np.cumsum((0, *choices[:-1]))
    return ~np.logical_or.reduceat(mask, starts, axis=1)


def opened(mask: np.ndarray, choices: Sequence[int]) -> np.ndarray:
    """The mask with everything allowed in each column that was closed."""
    closed = closed_columns(mask, choices)
    return mask | np.repeat(closed, choices, axis=1) if closed.any() else mask
