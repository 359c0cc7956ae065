"""Whether a run beats its own first policy, by the returns of its own episodes."""

import numpy as np

from proximo.runs.doctor.record import Record, once
from proximo.runs.health.returns import FEWEST_EPISODES, SURE, Course, Learning, course_of


@once
def learning(run: Record) -> Learning | None:
    """What is known of it; None where too few episodes ended, or an older version recorded none of them."""
    return _course(run).learning()


def fell(run: Record) -> bool:
    """Whether the last episodes are worse than the best before by more than chance; True where nothing is known.

    Two of some thirty episodes that ended say nothing of a fall.
    """
    seen, counts = learning(run), run.measured("ended")
    if len(counts) and counts.sum() < FEWEST_EPISODES:
        return False
    return seen is None or max(seen.best, seen.first, key=lambda part: part.mean).above(seen.last)[0] >= SURE


def task_returns(run: Record) -> tuple[np.ndarray, np.ndarray]:
    """Mean and deviation of the task's own returns, `[n]` each; where no wrapper changed them, they are the returns."""
    return _course(run).task_returns()


@once
def _course(run: Record) -> Course:
    return course_of(run.rows, run.amount("environments"), run.amount("steps"))
