"""Parts of the reward: one that explodes, one that decides alone, and those that never act."""

from collections.abc import Iterator

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from proximo.control.environments.names import is_of_a_library
from proximo.control.environments.terms import TERM
from proximo.runs.doctor.diagnosis import Change, Diagnosis, diagnosis
from proximo.runs.doctor.record import Record, start_and_end

FEWEST_ROWS = 20
"""Iterations: over fewer, a part that waits for something rare has had no chance to act."""
FEWEST_TERMS = 4
"""Two or three parts are a goal and its price, of which one is small by design (MuJoCo's forward and ctrl)."""
BEFORE = 10
"""Iterations that say what is usual."""
EXPLODED = 50.0
"""Times its usual size, from one iteration to the next: what is learnt grows by less, over more of them."""
ALONE = 0.95
"""Share of all parts' sizes: what is left moves a return by less than its episodes' spread does, as a rule."""


def reward_terms(run: Record) -> Iterator[Diagnosis]:
    """The worst that there is to say of the parts."""
    names = sorted({name for row in run.rows for name in row if name.startswith(TERM)})
    parts = {name.removeprefix(TERM): run.column(name) for name in names}
    if len(run.rows) < FEWEST_ROWS or not parts:
        return
    found = _exploded(parts)
    if found is None and len(parts) >= FEWEST_TERMS:
        found = _alone(parts) or _idle(parts, str(run.config.get("environment", "")))
    if found is not None:
        yield found


def _exploded(parts: dict[str, np.ndarray]) -> Diagnosis | None:
    """A part that jumps far beyond what it has just been, and beyond all others together."""
    sizes = np.abs(np.nan_to_num(np.stack([*parts.values()])))
    usual = np.median(sliding_window_view(sizes[:, :-1], BEFORE, axis=1), -1)
    size, others = sizes[:, BEFORE:], (sizes.sum(0) - sizes)[:, BEFORE:]
    jumped = (size > EXPLODED * usual) & (usual > 0) & (size > others)
    if not jumped.any():
        return None
    at = int(jumped.any(0).argmax())
    which = int(jumped[:, at].argmax())
    name = [*parts][which]
    said = f"{name} was about {usual[which, at]:.2g} in size, and then {size[which, at]:.2g}"
    ways = Change(f"bound {name} in the environment, or end the episode that makes it so large")
    return diagnosis("P062", "red", said, ways, iteration=at + BEFORE)


def _alone(parts: dict[str, np.ndarray]) -> Diagnosis | None:
    """A part that is nearly all there is, in the last tenth of the run."""
    last = {name: start_and_end(np.abs(np.nan_to_num(x)))[1] for name, x in parts.items()}
    total, name = sum(last.values()), max(last, key=lambda each: last[each])
    if not total or last[name] <= ALONE * total:
        return None
    others = len(parts) - 1
    said = f"{name} is {last[name] / total:.0%} of the sizes of all {len(parts)} parts; the other {others} hardly count"
    return diagnosis("P062", "amber", said, Change(f"lower the weight of {name}, or raise those of the others"))


def _idle(parts: dict[str, np.ndarray], environment: str) -> Diagnosis | None:
    """Parts that were 0 in every iteration. Not of a task that comes with a library, where that is its design: the
    contacts of Gymnasium's Ant-v4, or the weights of 0 of a robot of MuJoCo Playground's; nobody can mend it.
    """
    idle = [name for name, x in parts.items() if np.isfinite(x).any() and not np.nan_to_num(x).any()]
    if not idle or is_of_a_library(environment):
        return None
    said = f"{', '.join(idle)} {'was' if len(idle) == 1 else 'were'} 0 in every iteration"
    return diagnosis("P062", "amber", said, Change("give it a weight, or leave it out, or see why it never acts"))
