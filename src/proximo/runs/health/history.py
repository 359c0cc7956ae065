"""What rules may look back at: a window of recent rows, and the first value of everything."""

from collections import deque
from collections.abc import Mapping
from statistics import median
from typing import Any

WINDOW = 32


class History:
    """Rows before the one that is judged.

    Attributes:
        rows: the last `WINDOW` of them.
        first: the first value that each metric had.
        count: how many there were in all.
    """

    def __init__(self) -> None:
        self.rows: deque[Mapping[str, Any]] = deque(maxlen=WINDOW)
        self.first: dict[str, float] = {}
        self.count = 0

    def add(self, row: Mapping[str, Any]) -> None:
        """Take in a row that has been judged."""
        self.rows.append(row)
        self.count += 1
        for name, value in row.items():
            if name not in self.first and number(value) is not None:
                self.first[name] = value

    def recent(self, name: str, last: int = WINDOW) -> list[float]:
        """The last values of a metric, oldest first, at most `WINDOW`."""
        rows = list(self.rows)[-last:]
        return [x for row in rows if (x := number(row.get(name))) is not None]

    def median(self, name: str, fewest: int = 5) -> float | None:
        """Median of the recent values; None while there are fewer than `fewest`."""
        values = self.recent(name)
        return median(values) if len(values) >= fewest else None


def number(value: Any) -> float | None:
    """A finite number, or None."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if value - value == 0 else None  # NaN and infinities leave NaN
