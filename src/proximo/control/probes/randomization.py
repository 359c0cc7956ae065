"""Whether what was done explains something: a randomisation test, since the policy itself says what else it might do.

If an action does nothing, all that is seen and paid would have been the same with another draw of the same policy. So
the draw that was taken is one of many that were as likely (Fisher 1935, chapter 2), whatever the observations are like
and however the policy depends on them. A regression on the actions themselves has no such warrant: where observations
are much like those before, the policy's mean may look like whatever the regression leaves of them.

Of several updates, the weights of a later one depend on what was drawn before it, and are taken as they were: each
update's own sums are exact, and their total is nearly so.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from proximo.control.probes.experience import Experience
from proximo.control.probes.regression import DRAWS, Effect, effect, features, flipped, judged, outside, standardized

PILOTS = 32
"""Draws from which the mean and the covariance of the policy's actions are taken; not those that are compared."""


def action_features(actions: np.ndarray, levels: list[np.ndarray]) -> np.ndarray:
    """`[n, A]` -> `[n, k]`: one-hot choices but for the first, and continuous columns, clipped, with their squares.

    Args:
        actions: as they are stored.
        levels: for each column the choices that there are columns for; empty for a continuous one.
    """
    columns: list[np.ndarray] = []
    for column, chosen in zip(actions.T, levels, strict=True):
        if len(chosen):
            columns += [(column == level).astype(np.float64) for level in chosen[1:]]
        else:
            clipped = np.clip(column, -1.0, 1.0)
            columns += [clipped, clipped**2]
    return np.stack(columns, 1) if columns else np.zeros((len(actions), 0))


def levels_of(actions: np.ndarray, choices: np.ndarray) -> list[np.ndarray]:
    """Of each column of `[n, A]`, where `choices` `[A]` says that it is one."""
    return [np.unique(column) if choice else column[:0] for column, choice in zip(actions.T, choices, strict=True)]


@dataclass(frozen=True)
class Done:
    """What was done in some rows, and what might have been."""

    seen: Experience
    rows: np.ndarray
    """Of the steps, flat."""

    @property
    def actions(self) -> np.ndarray:
        """`[n, A]`, taken."""
        return self._at(self.seen.actions, 0)

    @property
    def choices(self) -> np.ndarray:
        """`[A]`: which columns are choices."""
        return self.seen.choices

    def pilots(self) -> list[np.ndarray]:
        """Draws to measure the policy by; none where it is not known."""
        again = self.seen.again
        return [] if again is None else [self._at(again(i), again.since) for i in range(PILOTS)]

    def seen_through(self, effect: Effect) -> Effect:
        """The same, with the share that it can not be above for actions of the policy's whole spread.

        Only the policy's noise is a trial, and of one that hardly has any, no effect can be ruled out.
        """
        pilots = self.pilots()
        levels = levels_of(np.concatenate(pilots), self.choices)
        drawn = np.stack([action_features(actions, levels) for actions in pilots])
        noise, whole = drawn.var(0).mean(0).sum(), drawn.reshape(-1, drawn.shape[-1]).var(0).sum()
        return replace(effect, limit=effect.limit * float(whole / noise) if noise > 0 else 1.0)

    def draws(self) -> Iterator[np.ndarray]:
        """What was taken, and then what might have been; only the first where the policy is not known."""
        yield self.actions
        if (again := self.seen.again) is not None:
            for i in range(PILOTS, PILOTS + DRAWS):
                yield self._at(again(i), again.since)

    def _at(self, actions: np.ndarray, since: int) -> np.ndarray:
        before = since * self.seen.rewards.shape[1]
        return actions.reshape(-1, actions.shape[-1])[self.rows - before].astype(np.float64)


def beyond_states(done: Done, x: np.ndarray, both: np.ndarray, targets: np.ndarray) -> Effect:
    """What actions, and their products with the observation, explain beyond what is seen.

    Args:
        done: what was done.
        x: `[n, d]` observations.
        both: `[n, 2 d]`, with those of the step before.
        targets: `[n, m]`, of size 1.
    """
    near = np.concatenate([np.ones((len(x), 1)), standardized(x)[:, -8:]], 1)
    pilots = done.pilots()
    # Of the pilots, where there are any: what is compared must not depend on which draw was taken.
    levels = levels_of(np.concatenate(pilots) if pilots else done.actions, done.choices)
    size = action_features(done.actions[:1], levels).shape[1]
    near = near if size * (near.shape[1] - 1) <= 96 else near[:, :1]

    def products(own: np.ndarray) -> np.ndarray:
        return (own[:, :, None] * near[:, None, :]).reshape(len(own), -1)

    if not pilots:
        return effect(products(action_features(done.actions, levels)), features(both), targets)
    drawn = [action_features(actions, levels) for actions in pilots]
    mean = np.mean(drawn, 0)
    gram = sum((p := products(own - mean)).T @ p for own in drawn[:8]) / 8
    left, total = outside(features(both), targets)
    if not left.shape[1] or not size:
        return Effect(0.0, 0.0, 1.0, 0.0)
    values, axes = np.linalg.eigh(gram)
    kept = values > 1e-9 * max(values[-1], 1e-300)
    white = axes[:, kept] / np.sqrt(values[kept])
    # The same sums for every draw, but for the policy's own noise: what the past decided is in the mean.
    known = (near[:, :, None] * left[:, None, :]).reshape(len(x), -1)
    shares = []
    for actions in done.draws():
        noise = action_features(actions, levels) - mean
        sums = (noise.T @ known).reshape(gram.shape[0], -1)
        shares.append(((white.T @ sums) ** 2).sum(0) / total)
    return done.seen_through(judged(shares[0], np.stack(shares[1:])))


def within_states(done: Done, state: np.ndarray, targets: np.ndarray) -> Effect:
    """The same question where states return: whether rows of one state differ by what was done in it.

    Args:
        done: what was done.
        state: `[n]` its number.
        targets: `[n, m]`.
    """
    total = ((targets - targets.mean(0)) ** 2).sum(0)
    varies = total > 1e-12 * len(targets)
    if not varies.any():
        return Effect(0.0, 0.0, 1.0, 0.0)
    left, total = _centred(targets[:, varies], state), total[varies]
    if done.seen.again is not None:
        shares = [_between(state, _cells(actions, done.choices), left) / total for actions in done.draws()]
        return done.seen_through(judged(shares[0], np.stack(shares[1:])))
    cell = _cells(done.actions, done.choices)
    return judged(*flipped(left, total, lambda y: _between(state, cell, _centred(y, state))))


def _between(state: np.ndarray, cell: np.ndarray, left: np.ndarray) -> np.ndarray:
    """`[m]`: sums of squares of the means of what was done in each state."""
    both = np.unique(state * (cell.max() + 1) + cell, return_inverse=True)[1]
    return np.asarray((_sums(left, both) ** 2 / np.bincount(both)[:, None]).sum(0))


def _centred(x: np.ndarray, group: np.ndarray) -> np.ndarray:
    return np.asarray(x - (_sums(x, group) / np.maximum(np.bincount(group), 1)[:, None])[group])


def _sums(x: np.ndarray, group: np.ndarray) -> np.ndarray:
    return np.stack([np.bincount(group, column) for column in x.T], 1)


def _cells(actions: np.ndarray, choices: np.ndarray) -> np.ndarray:
    """`[n]`: which of few actions it was; continuous ones in thirds."""
    columns = [
        x if c else np.digitize(x, np.quantile(x, (1 / 3, 2 / 3))) for x, c in zip(actions.T, choices, strict=True)
    ]
    _, number = np.unique(np.stack(columns[:3], 1), axis=0, return_inverse=True)
    return np.asarray(number.reshape(-1))
