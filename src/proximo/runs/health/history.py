"""History that rules look back at: a window of recent rows, some far apart, and the first value of everything."""

from collections import deque
from collections.abc import Mapping
from statistics import median
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from proximo.runs.health.returns import Learning

WINDOW = 32


class History:
    """Rows before the one that is judged.

    Attributes:
        rows: the last `WINDOW` of them.
        sparse: numbers `WINDOW`, 2 `WINDOW`, 4 `WINDOW`, ... of the run, counted from 0.
        first: the first value that each metric had.
        count: how many there were in all.
        learning: what the episodes of the run say; None where nothing is known.
    """

    def __init__(self) -> None:
        self.rows: deque[Mapping[str, Any]] = deque(maxlen=WINDOW)
        self.sparse: list[Mapping[str, Any]] = []
        self.first: dict[str, float] = {}
        self.count = 0
        self.learning: Learning | None = None
        self._columns: dict[str, deque[float | None]] = {}
        """Of `rows`, those that were asked for: nothing is looked up twice."""

    def add(self, row: Mapping[str, Any]) -> None:
        """Take in a row that has been judged."""
        self.rows.append(row)
        for name, column in self._columns.items():
            column.append(number(row.get(name)))
        if self.count == WINDOW << len(self.sparse):
            self.sparse.append(row)
        self.count += 1
        for name, value in row.items():
            if name not in self.first and number(value) is not None:
                self.first[name] = value

    def recent(self, name: str, last: int = WINDOW) -> list[float]:
        """The last values of a metric, oldest first, at most `WINDOW`."""
        column = self._columns.get(name)
        if column is None:
            column = deque((number(row.get(name)) for row in self.rows), WINDOW)
            self._columns[name] = column
        values = column if last >= WINDOW else list(column)[-last:]
        return [x for x in values if x is not None]

    def median(self, name: str, fewest: int = 5) -> float | None:
        """Median of the recent values; None while there are fewer than `fewest`."""
        values = self.recent(name)
        return median(values) if len(values) >= fewest else None


def number(value: Any) -> float | None:
    """A finite number, or None; a whole one that no float has room for is none."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value) if value - value == 0 else None  # NaN and infinities leave NaN
    except OverflowError:
        return None
