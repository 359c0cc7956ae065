"""Do observations say anything, and of what; do rewards follow from anything; does the policy look at all?"""

import numpy as np

from proximo.control.probes.actions import rewards_ahead
from proximo.control.probes.experience import MOST_ROWS, Experience
from proximo.control.probes.randomization import action_features, levels_of
from proximo.control.probes.regression import explained, features, standardized

FEWEST = 200
"""Steps that a share of variance needs."""
WIDEST = 24
"""Numbers of an observation that are asked for."""


def constant(seen: Experience) -> bool:
    """Whether the observation never changes."""
    x = seen.observations[seen.counted]
    return bool(x.size) and bool((np.ptp(x, axis=0) == 0).all())


def foretold(seen: Experience) -> float:
    """Share of the next observation's variance that this one explains, of the number it explains best; NaN where there
    are too few steps to tell.
    """
    rows = _rows(seen, seen.together)
    if len(rows) < FEWEST or not seen.observations.shape[-1]:
        return np.nan
    columns, fold = features(_flat(seen.observations)[rows]), _fold(seen, rows)
    after = _flat(seen.following)[rows]
    spread = np.flatnonzero(np.ptp(after, axis=0) > 0)
    return max((explained(columns, after[:, i], fold) for i in spread[:WIDEST]), default=0.0)


def returns_told(seen: Experience, gamma: float) -> float:
    """Share of the variance of the next 32 steps' discounted rewards that a new regression finds in the observation;
    NaN where there are too few steps to tell.
    """
    total, whole = rewards_ahead(seen, 32, gamma)
    rows = _rows(seen, whole)
    if len(rows) < FEWEST:
        return np.nan
    return explained(features(_flat(seen.observations)[rows]), total.reshape(-1)[rows], _fold(seen, rows))


def reward_told(seen: Experience) -> float:
    """Share of the reward's variance that follows from what was seen, done, and seen next; NaN as above."""
    rows = _rows(seen, seen.counted)
    if len(rows) < FEWEST:
        return np.nan
    taken = _flat(seen.actions)[rows]
    done = action_features(taken, levels_of(taken, seen.choices))
    ends = seen.terminated.reshape(-1, 1)[rows].astype(np.float64)
    now, after = (_flat(x)[rows] for x in (seen.observations, seen.following))
    # Many rewards are of progress: of the change, which is lost in the state if it is small.
    change = np.where(seen.over.reshape(-1, 1)[rows], 0.0, after - now)
    parts = [features(now), features(after)[:, 1:], features(change)[:, 1:], done, ends]
    moved, near = standardized(change)[:, -8:], standardized(after)[:, -8:]
    for first, second in ((done, near), (done, moved), (standardized(now)[:, -8:], moved)):
        parts.append((first[:, :, None] * second[:, None, :]).reshape(len(rows), -1)[:, :96])
    columns = np.concatenate(parts, 1)
    return explained(columns, seen.rewards.reshape(-1)[rows], _fold(seen, rows))


def dense(rewards: np.ndarray) -> bool:
    """Whether rewards are of many values, the commonest one in less than nine steps of ten."""
    _, counts = np.unique(rewards, return_counts=True)
    return bool(counts.max(initial=0) < 0.9 * rewards.size)


def policy_looks(seen: Experience) -> bool:
    """Whether the same action is as likely whatever is seen; True where that can not be told."""
    if seen.log_probs is None or constant(seen) or not seen.observations.shape[-1]:
        return True
    first = seen.counted.copy()
    first[min(len(first), _rollout(seen)) :] = False  # of one policy only
    log_probs, actions = seen.log_probs[first], seen.actions[first]
    if seen.choices.all():
        cells = np.unique(actions, axis=0, return_inverse=True)[1].reshape(-1)
        return any(np.ptp(log_probs[cells == cell]) > 1e-6 for cell in np.unique(cells))
    if seen.choices.any():
        return True
    columns = np.concatenate([np.ones((len(actions), 1)), actions, actions**2], 1)
    fitted = columns @ np.linalg.lstsq(columns, log_probs, rcond=None)[0]
    return bool(np.abs(log_probs - fitted).max() > 1e-4 * (1 + np.abs(log_probs).max()))


def _rollout(seen: Experience) -> int:
    return max(1, len(seen.rewards) // 8)


def _flat(x: np.ndarray) -> np.ndarray:
    return x.reshape(-1, x.shape[-1])


def _rows(seen: Experience, where: np.ndarray) -> np.ndarray:
    return np.flatnonzero(where.reshape(-1))[-MOST_ROWS:]


def _fold(seen: Experience, rows: np.ndarray) -> np.ndarray:
    """Four folds: some environments each; with fewer of them, stretches of time."""
    if seen.rewards.shape[1] >= 4:
        return np.asarray(seen.environment.reshape(-1)[rows] % 4)
    return np.arange(len(rows)) * 4 // max(1, len(rows))
