"""A curve in one line of text."""

import math
from collections.abc import Sequence
from itertools import pairwise

_LEVELS = "▁▂▃▄▅▆▇█"


class Curve:
    """The course of one number, kept in at most 2 × `width` means of equally many values."""

    def __init__(self, width: int = 32) -> None:
        self.width = width
        self._means: list[float] = []
        self._each = 1
        self._open: list[float] = []

    def add(self, value: float) -> None:
        """Takes the next value; one that is not finite is left out."""
        if not math.isfinite(value):
            return
        self._open.append(value)
        if len(self._open) == self._each:
            self._means.append(sum(self._open) / self._each)
            self._open = []
        if len(self._means) == 2 * self.width:
            pairs = zip(self._means[::2], self._means[1::2], strict=True)
            self._means, self._each = [(a + b) / 2 for a, b in pairs], 2 * self._each

    def __str__(self) -> str:
        return sparkline(self._means, self.width)


def sparkline(values: Sequence[float], width: int) -> str:
    """Values as columns of eight heights, from their least to their greatest; "" for fewer than 2.

    Args:
        values: finite; more than `width` are averaged in groups that lie side by side.
        width: columns at most.
    """
    if len(values) < 2:
        return ""
    columns = min(width, len(values))
    edges = [i * len(values) // columns for i in range(columns + 1)]
    means = [sum(values[a:b]) / (b - a) for a, b in pairwise(edges)]
    low, span = min(means), max(means) - min(means)
    if not span > 0:
        return _LEVELS[0] * columns
    return "".join(_LEVELS[min(7, int(8 * (mean - low) / span))] for mean in means)
