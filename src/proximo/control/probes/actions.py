"""Does anything depend on what is done: what is seen next, the reward, the end of the episode, the return?"""

from collections.abc import Iterator

import numpy as np

from proximo.control.probes.experience import Experience
from proximo.control.probes.regression import Effect, basis, effect, features, judged, standardized

MOST_ROWS = 6000
"""Steps that a question is put to, the last ones."""
MOST_LAG = 64
"""Steps that an effect may be late."""
SOON = 4
"""Steps within which an effect is not late."""
NONE = Effect(0.0, 1.0, 1.0, 0.0)
"""Nothing is known."""


def action_features(actions: np.ndarray, choices: np.ndarray) -> np.ndarray:
    """`[n, A]` -> `[n, k]`: one-hot choices but for the first, and continuous columns, clipped, with their squares."""
    columns: list[np.ndarray] = []
    for i in range(actions.shape[1]):
        column = actions[:, i]
        if choices[i]:
            columns += [(column == level).astype(np.float64) for level in np.unique(column)[1:]]
        else:
            clipped = np.clip(column, -1.0, 1.0)
            columns += [clipped, clipped**2]
    return np.stack(columns, 1) if columns else np.zeros((len(actions), 0))


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
    return max(found, key=lambda each: (each.clear(), each.share))


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
    return max(found, key=lambda each: each.deviations, default=NONE)


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
    if len(rows) < 200:
        return NONE
    x = seen.observations.reshape(-1, seen.observations.shape[-1])[rows]
    both = np.concatenate([x, seen.before.reshape(-1, x.shape[1])[rows]], 1)
    y = targets.reshape(-1, targets.shape[-1])[rows]
    done = seen.actions.reshape(-1, seen.actions.shape[-1])[rows]
    number = states(x)
    if number is not None:
        return _within_states(number, _cells(done, seen.choices), _few(y))
    own = action_features(done, seen.choices)
    near = standardized(x)[:, -8:]
    products = [own[:, :, None] * near[:, None, :]] if own.shape[1] * near.shape[1] <= 96 else []
    given = np.concatenate([own, *(p.reshape(len(rows), -1) for p in products)], 1)
    return effect(given, features(both), _few(y))


def _few(y: np.ndarray) -> np.ndarray:
    """At most 24 targets of size 1: of more, those that vary most for their size."""
    y = (y - y.mean(0)) / np.where(y.std(0) > 0, y.std(0), 1.0)
    return y if y.shape[1] <= 24 else y[:, np.argsort(np.median(np.abs(y), 0))[-24:]]


def _cells(actions: np.ndarray, choices: np.ndarray) -> np.ndarray:
    """`[n]`: which of few actions it was; continuous ones in thirds."""
    columns = [
        x if c else np.digitize(x, np.quantile(x, (1 / 3, 2 / 3))) for x, c in zip(actions.T, choices, strict=True)
    ]
    _, number = np.unique(np.stack(columns[:3], 1), axis=0, return_inverse=True)
    return np.asarray(number.reshape(-1))


def _within_states(state: np.ndarray, cell: np.ndarray, targets: np.ndarray) -> Effect:
    """The same question where states return: whether rows of one state differ by what was done in it."""
    both = np.unique(np.stack([state, cell], 1), axis=0, return_inverse=True)[1].reshape(-1)
    total = ((targets - targets.mean(0)) ** 2).sum(0)
    varies = total > 1e-12 * len(targets)
    if not varies.any():
        return Effect(0.0, 0.0, 1.0, 0.0)

    def centred(x: np.ndarray, group: np.ndarray) -> np.ndarray:
        count = np.bincount(group)
        means = np.stack([np.bincount(group, column) for column in x.T], 1) / np.maximum(count, 1)[:, None]
        return np.asarray(x - means[group])

    left = centred(targets[:, varies], state)

    def explains(x: np.ndarray) -> np.ndarray:
        x = centred(x, state)
        return np.asarray((x**2).sum(0) - (centred(x, both) ** 2).sum(0))

    return judged(left, total[varies], explains)


def late(seen: Experience) -> tuple[int, float] | None:
    """How many steps late an effect comes, and what share of a change or a reward it explains; None if there is none.

    Both are asked: what is done and what is seen next; what is seen or done, and the reward.
    """
    found = max((each for each in _late(seen) if each), key=lambda each: each[1], default=None)
    return found if found and found[0] >= 2 else None


def _late(seen: Experience) -> Iterator[tuple[int, float] | None]:
    flat_actions = action_features(seen.actions.reshape(-1, seen.actions.shape[-1]), seen.choices)
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
