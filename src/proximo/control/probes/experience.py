"""Steps of several environments as plain arrays, from the updates that a run keeps or from random actions."""

from dataclasses import dataclass

import numpy as np

from proximo.control.environments.base import Step
from proximo.control.probes.policies import Again, drawn_again
from proximo.runs.replay.entry import Kept

MOST_LEVELS = 64
"""Distinct whole numbers up to which a column of actions is a choice."""


MOST_ROWS = 6000
"""Steps that a question is put to, the last ones."""


@dataclass(frozen=True)
class Experience:
    """T steps of N environments, time first."""

    observations: np.ndarray
    """`[T, N, D]`, as the environment gave them; D = 0 where there are only images."""
    following: np.ndarray
    """`[T, N, D]`: what was seen next, which says nothing where the episode was over."""
    actions: np.ndarray
    """`[T, N, A]`: continuous ones in units of their bounds, choices counted from 0."""
    rewards: np.ndarray
    """`[T, N]`, as the environment gave them."""
    terminated: np.ndarray
    """`[T, N]`: nothing follows."""
    over: np.ndarray
    """`[T, N]`: the episode ends here, terminated or cut."""
    counted: np.ndarray
    """`[T, N]`: False for rows that only report a reset."""
    episodes: np.ndarray
    """`[T, N]` whole numbers: rows of one environment with the same one are of one episode."""
    log_probs: np.ndarray | None = None
    """`[T, N]` of the actions, by the policy that took them."""
    again: Again | None = None
    """Draws other actions that were as likely; None where the policy that took them is not known."""

    @property
    def together(self) -> np.ndarray:
        """`[T, N]`: rows with a following state of the same episode."""
        return self.counted & ~self.over

    @property
    def environment(self) -> np.ndarray:
        """`[T, N]`: the number of the environment, by which folds are made."""
        return np.broadcast_to(np.arange(self.rewards.shape[1]), self.rewards.shape)

    @property
    def tries(self) -> bool:
        """Whether the policy does now one thing, now another in the same state; if not, what another action would have
        done can not be told. Of choices it is asked for 0.05 nats: of two, the other one once in 110 steps.
        """
        if not self.choices.all() or self.log_probs is None:
            return True
        return bool(-self.log_probs[self.counted].mean() > 0.05)

    @property
    def choices(self) -> np.ndarray:
        """`[A]`: which columns of the actions are choices."""
        flat = self.actions.reshape(-1, self.actions.shape[-1])
        whole = (flat == np.round(flat)).all(0)
        return np.array([bool(w) and len(np.unique(flat[:, i])) <= MOST_LEVELS for i, w in enumerate(whole)], bool)

    @property
    def before(self) -> np.ndarray:
        """`[T, N, D]`: the observation of the step before; its own where it is the first of an episode."""
        seen = self.observations.copy()
        same = self.pairs(1)
        seen[1:][same] = self.observations[:-1][same]
        return seen

    def pairs(self, lag: int) -> np.ndarray:
        """`[T - lag, N]`: where a step and the one `lag` steps after it are of one episode."""
        end = len(self.rewards) - lag
        same = self.episodes[:end] == self.episodes[lag:]
        return np.asarray(same & self.counted[:end] & self.counted[lag:])


def from_updates(kept: Kept) -> Experience | None:
    """What the policy did in the updates that a run keeps; None where there is nothing to look at."""
    parts = [entry.learnt for entry in kept.entries]
    if not parts or any("inputs/vector" not in part or "reward" not in part for part in parts):
        return None
    iterations = [entry.iteration for entry in kept.entries]

    def rows(name: str) -> np.ndarray:
        return np.concatenate([part[name].cpu().numpy() for part in parts])

    seen = [part["inputs/vector"].cpu().numpy().astype(np.float64) for part in parts]
    last = [part["last_inputs/vector"].cpu().numpy().astype(np.float64)[None] for part in parts]
    begins = np.concatenate(
        [
            _begins(part["starts"].cpu().numpy(), i == 0 or iterations[i] != iterations[i - 1] + 1)
            for i, part in enumerate(parts)
        ]
    )
    return Experience(
        np.concatenate(seen),
        np.concatenate([np.concatenate([x[1:], end]) for x, end in zip(seen, last, strict=True)]),
        rows("action").astype(np.float64),
        rows("reward").astype(np.float64),
        rows("terminated"),
        rows("terminated") | rows("truncated"),
        rows("valid"),
        np.cumsum(begins, axis=0),
        rows("log_prob").astype(np.float64),
        drawn_again(kept, 3 * MOST_ROWS // 2),  # some of them are not asked
    )


def _begins(starts: np.ndarray, anew: bool) -> np.ndarray:
    begins = starts.copy()
    begins[0] |= anew
    return begins


class Watched:
    """Steps as they are taken.

    Args:
        observation: `[N, D]`, the first.
    """

    def __init__(self, observation: np.ndarray) -> None:
        self._now = observation
        self._starts = np.ones(len(observation), bool)
        self._columns: dict[str, list[np.ndarray]] = {}

    def note(self, actions: np.ndarray, step: Step, following: np.ndarray, observation: np.ndarray) -> None:
        """Take in a step.

        Args:
            actions: `[N, A]`, as they are stored.
            step: what the environments gave.
            following: `[N, D]`: the states that were reached.
            observation: `[N, D]`: what is seen next, of the next episode where one is over.
        """
        row = {
            "observations": self._now,
            "following": following,
            "actions": actions,
            "rewards": np.array(step.reward, np.float64),
            "terminated": np.array(step.terminated),
            "over": step.terminated | step.truncated,
            "counted": np.array(step.valid),
            "starts": self._starts,
        }
        for name, x in row.items():
            self._columns.setdefault(name, []).append(x)
        self._now, self._starts = observation, np.array(step.started)

    def experience(self) -> Experience:
        """All of them."""
        columns = {name: np.stack(x) for name, x in self._columns.items()}
        episodes = np.cumsum(columns.pop("starts"), axis=0)
        return Experience(**columns, episodes=episodes, log_probs=None, again=None)
