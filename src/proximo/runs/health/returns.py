"""Whether a run beats its own first policy, by the returns of its own episodes."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import sqrt
from typing import Any

import numpy as np

from proximo.runs.health.history import number

FEWEST_EPISODES = 30
"""Of the first policy; two of each environment at least, since the first that end are the short ones."""
FEWEST_ITERATIONS = 6
FAIR_SHARE = 0.2
"""Of the run's budget, before a run can be said to have learnt nothing."""
SURE = 3.5
"""Standard errors between two means, that chance does not reach in a few comparisons (5e-4 in each)."""
SMALL = 0.4
"""Of the deviation of episodes' returns: a rise that is not even so large is none, where it is not sure; nor a fall."""
RISES = 2.0
"""Standard errors between the last two thirds: what is on its way back may have dipped only."""


@dataclass(frozen=True)
class Returns:
    """Episodes of some iterations."""

    count: float
    mean: float
    variance: float

    @property
    def error(self) -> float:
        """Standard error of the mean."""
        return sqrt(self.variance / self.count)

    def __str__(self) -> str:
        """`21.3 ± 1.2 (40 episodes)`."""
        return f"{self.mean:,.4g} ± {self.error:,.2g} ({self.count:,.0f} episodes)"

    def above(self, other: "Returns") -> tuple[float, float]:
        """By how many standard errors, and by how many deviations of one episode, this mean lies above another."""
        rise, error = self.mean - other.mean, sqrt(self.error**2 + other.error**2)
        spread = sqrt((self.variance + other.variance) / 2)
        least = 1e-9 * max(abs(self.mean), abs(other.mean), 1e-300)  # of episodes that are all the same
        return rise / max(error, least), rise / max(spread, least)


@dataclass(frozen=True)
class Learning:
    """Returns of a run's first policy, and of the later part in which they were the highest."""

    first: Returns
    best: Returns
    last: Returns
    fair: bool
    """A fair share of the budget is spent."""
    improved: bool
    """Later episodes are better than the first policy's, and that is no chance."""
    nothing: bool
    """They are not, nor does it look so, after a fair share of the budget."""
    begun: Returns
    """The very first, before anything could have risen or fallen much."""
    late: Returns
    """The last third while there are steps left, the last tenth afterwards."""
    worse: bool
    """`late` is worse than `begun`, and that is no chance. While there are steps left its second half is worse too, and
    it is not on its way back at a pace that may bring it there before they end."""


_GAMES = "log/won"
_LEVEL = re.compile(rf"^{_GAMES}$|curricul|difficult|levels?$|stage$", re.IGNORECASE)
"""Metrics that say what the returns are of: games against itself, and levels of a curriculum, by their usual names."""
LENGTHS = 10
"""Episodes one after the other in each environment, before those that have ended stand for all: the mean of those that
end within n mean lengths is short by some half of a length in n (renewal theory: Cox 1962, section 5)."""


class Course:
    """The episodes that ended in each iteration of a run, and what they say of it so far.

    Args:
        environments: copies of the task.
        steps: of the whole run; 0 where nothing is known of it.
    """

    _READ = (
        "step",
        "ended",
        "ended_mean",
        "ended_std",
        "ended_task_mean",
        "ended_task_std",
        "episode_length",
        "episode_length_std",
    )

    def __init__(self, environments: float, steps: float) -> None:
        self._environments, self._steps = environments, steps
        self._columns: dict[str, list[float]] = {name: [] for name in self._READ}
        self._levels: dict[str, Any] = {}
        self._one_task = True
        """Not of games against itself, and no level that the environment logs has moved: a harder task pays less."""

    def add(self, row: Mapping[str, Any]) -> None:
        """Take in an iteration's metrics."""
        for name, column in self._columns.items():
            value = number(row.get(name))
            column.append(np.nan if value is None else value)
        for name in row:
            if name.startswith("log/") and _LEVEL.search(name):
                self._one_task &= name != _GAMES and self._levels.setdefault(name, row[name]) == row[name]

    def learning(self) -> Learning | None:
        """What is known; None where too few episodes ended, or an older version recorded none of them.

        The returns are those of the task itself where a wrapper changes them, unless these never vary.
        """
        name = "ended_task" if self._varies("ended_task") else "ended"
        counts = np.nan_to_num(self._column("ended"))
        means, stds = self.task_returns() if name == "ended_task" else self._moments("ended")
        counts = np.where(np.isfinite(means) & np.isfinite(stds), counts, 0.0)
        rows = len(counts)
        fewest = max(FEWEST_EPISODES, 2 * self._environments)
        enough = np.flatnonzero(np.cumsum(counts) >= fewest)
        if not len(enough) or rows < FEWEST_ITERATIONS or enough[0] >= rows // 2:
            return None
        end = max(int(enough[0]) + 1, min(self._unbiased(), rows // 10))
        begun = first = _pooled(counts, means, stds, slice(0, end))
        longer = max(end, rows // 10)  # the first tenth, if nothing has risen or fallen in it
        if (
            longer > end
            and counts[end:longer].sum()
            and abs(_pooled(counts, means, stds, slice(end, longer)).above(first)[0]) < 2
        ):
            end, first = longer, _pooled(counts, means, stds, slice(0, longer))
        parts = [part for part in np.array_split(np.arange(end, rows), 3) if counts[part].sum() >= 10]
        if not parts:
            return None
        later = [_pooled(counts, means, stds, slice(part[0], part[-1] + 1)) for part in parts]
        best = max(later, key=lambda returns: returns.above(first)[0])
        sure, size = best.above(first)
        fair = self._steps <= 0 or self._columns["step"][-1] >= FAIR_SHARE * self._steps
        improved = sure >= SURE and size >= 0.1
        nothing = fair and not improved and size < SMALL
        left = max(0.0, self._steps / self._columns["step"][-1] - 1.0)
        late, half = later[-1], parts[-1][len(parts[-1]) // 2 :]
        if not left:
            tenth = int(np.searchsorted(-np.cumsum(counts[::-1])[::-1], -FEWEST_EPISODES, side="right")) - 1
            late = _pooled(counts, means, stds, slice(min(tenth, rows - rows // 10), rows))
        sure, size = late.above(begun)
        worse = fair and self._one_task and sure <= -SURE * sqrt(_excess(counts, means, stds)) and size <= -SMALL
        if worse and left:
            stays = counts[half].sum() >= 5 and len(later) > 1
            stays = stays and _pooled(counts, means, stds, slice(half[0], rows)).above(begun)[1] <= -SMALL
            worse = stays and not _comes_back(later[-2], late, begun.mean, left * len(later))
        return Learning(first, best, later[-1], fair, improved, nothing, begun, late, worse)

    def task_returns(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean and deviation of the task's own returns, `[n]` each; of the returns where no wrapper changed them."""
        alike = ~np.isfinite(self._column("ended_task_mean"))
        both = zip(self._moments("ended"), self._moments("ended_task"), strict=True)
        mean, std = (np.where(alike, ours, task) for ours, task in both)
        return mean, std

    def _unbiased(self) -> int:
        """Iterations in which so many follow each other; 0 where all are of one length."""
        lengths, spreads = (self._column(name) for name in ("episode_length", "episode_length_std"))
        lengths, spreads = (column[np.isfinite(column)] for column in (lengths, spreads))
        if not len(lengths) or not len(spreads) or spreads[0] < 0.05 * lengths[0]:
            return 0
        each = self._column("step") / max(1.0, self._environments)
        return int(np.searchsorted(np.nan_to_num(each), LENGTHS * lengths[0])) + 1

    def _varies(self, name: str) -> bool:
        means, stds = (column[np.isfinite(column)] for column in self._moments(name))
        return len(means) > 0 and bool(np.ptp(means) > 1e-9 * np.abs(means).max() or stds.any())

    def _column(self, name: str) -> np.ndarray:
        return np.array(self._columns[name], np.float64)

    def _moments(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        return self._column(f"{name}_mean"), self._column(f"{name}_std")


def course_of(rows: Iterable[Mapping[str, Any]], environments: float, steps: float) -> Course:
    """Of a run that has such rows."""
    course = Course(environments, steps)
    for row in rows:
        course.add(row)
    return course


def _comes_back(before: Returns, now: Returns, goal: float, left: float) -> bool:
    """Whether the mean rises, and so fast that it may reach a goal in what is left, counted in such parts."""
    rise, error = now.mean - before.mean, sqrt(now.error**2 + before.error**2)
    return rise >= RISES * error and now.mean + left * (rise + RISES * error) >= goal


def _excess(counts: np.ndarray, means: np.ndarray, stds: np.ndarray) -> float:
    """How many times as large as for independent episodes the variance of an iteration's mean is; 1 at least.

    By the differences of neighbouring iterations (von Neumann 1941), which a slow course hardly moves. Agents of one
    team that are paid together make it their number.
    """
    there = counts > 1
    count, mean, std = counts[there], means[there], stds[there]
    each = std**2 / (count - 1)
    expected = float((each[1:] + each[:-1]).sum())
    return max(1.0, float((np.diff(mean) ** 2).sum()) / expected) if expected > 0 else 1.0


def _pooled(counts: np.ndarray, means: np.ndarray, stds: np.ndarray, part: slice) -> Returns:
    """Mean and variance of all episodes of some iterations (Chan et al. 1979, eq. 2.1)."""
    there = counts[part] > 0
    count, mean, std = counts[part][there], means[part][there], stds[part][there]
    total = float(count.sum())
    whole = float((count * mean).sum() / total)
    variance = float((count * (std**2 + (mean - whole) ** 2)).sum() / total)
    return Returns(total, whole, variance * total / max(1.0, total - 1))
