"""Action masks: one entry for each choice, the choices of one column of the action side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from proximo.control.spaces import leaves

if TYPE_CHECKING:
    import gymnasium


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
