"""Does anything depend on what is done: what is seen next, the reward, the end of the episode, the return?"""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from proximo.control.probes.experience import MOST_ROWS, Experience
from proximo.control.probes.randomization import Done, action_features, beyond_states, levels_of, within_states
from proximo.control.probes.regression import Effect, basis, features, standardized

MOST_LAG = 64
"""Steps that an effect may be late."""
SOON = 4
"""Steps within which an effect is not late."""
NONE = Effect(0.0, 1.0, 1.0, 0.0)
"""Nothing is known."""


def states(x: np.ndarray) -> np.ndarray | None:
    """`[n]` numbers of the rows of `[n, d]`, where the same few return again and again; else None."""
    _, number = np.unique(np.round(x, 6), axis=0, return_inverse=True)
    return number.reshape(-1) if number.max(initial=0) + 1 <= len(x) / 6 else None


def on_what_follows(seen: Experience) -> Effect:
    """On what is seen next and some steps later, the reward, and whether the episode terminates, beyond what this and
    the last observation say.
    """
    found = [
        _of(seen, seen.together, seen.following - seen.observations),
        _of(seen, *_moved(seen, SOON)),
        _of(seen, seen.counted, np.stack([seen.rewards, seen.terminated], -1).astype(np.float64)),
    ]
    return _of_several(found, max(found, key=lambda each: (each.clear(), each.share)))


def _moved(seen: Experience, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Where the same episode goes on for so many steps, `[T, N]`, and what has changed by then, `[T, N, D]`.

    Where velocities are not seen, or a force moves them only at the end of a step, the next observation is too soon.
    """
    there, change = np.zeros_like(seen.counted), np.zeros_like(seen.observations)
    if len(there) > steps:
        there[:-steps] = seen.pairs(steps)
        change[:-steps] = seen.observations[steps:] - seen.observations[:-steps]
    return there, change


def on_returns(seen: Experience, gamma: float) -> Effect:
    """On the discounted rewards of the next 8 and 32 steps, beyond what the observation says."""
    found = []
    for steps in (8, 32):
        total, whole = rewards_ahead(seen, steps, gamma)
        if whole.sum() >= 200:
            found.append(_of(seen, whole, total[..., None]))
    return _of_several(found, max(found, key=lambda each: each.deviations, default=NONE))


def _of_several(found: list[Effect], best: Effect) -> Effect:
    """One of several answers, with the probability that any of them is so by chance (Bonferroni)."""
    return replace(best, p=min(1.0, best.p * max(1, len(found))))


def rewards_ahead(seen: Experience, steps: int, gamma: float) -> tuple[np.ndarray, np.ndarray]:
    """Discounted rewards of the next steps `[T, N]`, and where all of them are known or the episode ended before."""
    total = np.zeros_like(seen.rewards)
    alive, known = seen.counted.copy(), seen.counted.copy()
    count = len(total)
    for k in range(steps):
        if k >= count:
            break
        ahead = np.zeros_like(total)
        ahead[: count - k] = seen.rewards[k:]
        there = np.zeros_like(alive)
        there[: count - k] = seen.counted[k:]
        known &= ~alive | there
        total += gamma**k * np.where(alive & there, ahead, 0.0)
        over = np.zeros_like(alive)
        over[: count - k] = seen.over[k:]
        alive &= ~over
    return total, known


def _of(seen: Experience, where: np.ndarray, targets: np.ndarray) -> Effect:
    rows = np.flatnonzero(where.reshape(-1))[-MOST_ROWS:]
    if seen.again is not None:
        rows = rows[rows >= seen.again.since * seen.rewards.shape[1]]
    if len(rows) < 200:
        return NONE
    x = seen.observations.reshape(-1, seen.observations.shape[-1])[rows]
    both = np.concatenate([x, seen.before.reshape(-1, x.shape[1])[rows]], 1)
    y = _few(targets.reshape(-1, targets.shape[-1])[rows])
    done = Done(seen, rows)
    number = states(x)
    return within_states(done, number, y) if number is not None else beyond_states(done, x, both, y)


def _few(y: np.ndarray) -> np.ndarray:
    """At most 24 targets of size 1: of more, those that vary most for their size."""
    y = (y - y.mean(0)) / np.where(y.std(0) > 0, y.std(0), 1.0)
    return y if y.shape[1] <= 24 else y[:, np.argsort(np.median(np.abs(y), 0))[-24:]]


def late(seen: Experience) -> tuple[int, float] | None:
    """How many steps late an effect comes, and what share of a change or a reward it explains; None if there is none.

    Both are asked: what is done and what is seen next; what is seen or done, and the reward.
    """
    found = max((each for each in _late(seen) if each), key=lambda each: each[1], default=None)
    return found if found and found[0] >= 2 else None


def _late(seen: Experience) -> Iterator[tuple[int, float] | None]:
    taken = seen.actions.reshape(-1, seen.actions.shape[-1])
    flat_actions = action_features(taken, levels_of(taken, seen.choices))
    done = flat_actions.reshape(*seen.rewards.shape, -1)
    change = np.where(seen.together[..., None], seen.following - seen.observations, 0.0)
    size = seen.observations.shape[-1]
    context = features(seen.observations.reshape(-1, size)) if size else np.ones((seen.rewards.size, 1))
    # Changes less what the state says of them, so that a late action is not hidden under the task's own motion.
    weight = seen.together.reshape(-1, 1)
    known = basis(context * weight)
    flat = _few(change.reshape(-1, size)) * weight if size else np.zeros((seen.rewards.size, 0))
    left = flat - known @ (known.T @ flat)
    yield _best_lag(seen, done, left.reshape(*seen.rewards.shape, -1), seen.together)
    state = standardized(seen.observations.reshape(-1, size))[:, -12:] if size else np.zeros((seen.rewards.size, 0))
    square = np.concatenate([state, state**2, flat_actions], 1).reshape(*seen.rewards.shape, -1)
    yield _best_lag(seen, square, seen.rewards[..., None], seen.counted)


def _best_lag(seen: Experience, given: np.ndarray, targets: np.ndarray, where: np.ndarray) -> tuple[int, float] | None:
    """The lag at which `given` explains most of a target, if it is far more than at none and at one."""
    shares: list[float] = []
    for lag in range(min(MOST_LAG, len(targets) - 1)):
        mask = seen.pairs(lag) & where[lag:]
        if mask.sum() < 500:
            break
        x, y = given[: len(given) - lag][mask][-MOST_ROWS:], targets[lag:][mask][-MOST_ROWS:]
        shares.append(_share(x - x.mean(0), y - y.mean(0)))
    if len(shares) < 3:
        return None
    lag = int(np.argmax(shares))
    soon = max(shares[:2])
    return (lag, shares[lag]) if shares[lag] > max(0.05, soon + 0.1) else None


def _share(x: np.ndarray, y: np.ndarray) -> float:
    """The largest share of a column of `y` that `x` explains, less what chance does."""
    total = (y**2).sum(0)
    varies = total > 1e-12 * len(y)
    if not varies.any() or not x.shape[1]:
        return 0.0
    known = basis(x)
    share = float((((known.T @ y[:, varies]) ** 2).sum(0) / total[varies]).max())
    return max(0.0, share - 3 * known.shape[1] / len(y))
