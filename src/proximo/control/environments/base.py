"""The one face that every batch of environments shows to a rollout."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from proximo.errors import UserError

if TYPE_CHECKING:
    import gymnasium

    from proximo.control.environments.games import Game

Observation = np.ndarray | dict[str, Any] | tuple
"""A batch of observations: an array, or a dict or tuple of batches; every leaf has the leading axis [N]."""


def hidden_end(name: str, hides: str, show: str = "") -> UserError:
    """What is said of environments that hide the states that cut episodes reached.

    Args:
        name: of them.
        hides: how.
        show: what shows them, where something does.
    """
    return UserError(
        f"{name} {hides}, so the state that a cut episode reached is not known and its value can not be asked for: "
        f"{f'{show}, or ' if show else ''}set truncation = previous (its value is that of the state before, which is "
        "biased) or drop (its last step is not learnt from); see docs/truncation.md"
    )


@dataclass(frozen=True, slots=True)
class Step:
    """What N environments answered to N actions. The arrays are the caller's to keep: nobody writes to them again."""

    observation: Observation
    """What the policy sees next: the first observation of a new episode in the rows where `started`."""
    final_observation: Observation
    """The state really reached by this step: what a truncated episode is bootstrapped from.

    The same object as `observation` when they differ in no row (always so where a reset takes a step of its own).
    """
    reward: np.ndarray
    """float64 [N]: what is learnt from."""
    terminated: np.ndarray
    """bool [N]: the episode ended in a terminal state, whose value is zero."""
    truncated: np.ndarray
    """bool [N]: the episode was cut, by a time limit as a rule."""
    valid: np.ndarray
    """bool [N]: False in the rows that only report a reset (their action was ignored and their reward is 0)."""
    started: np.ndarray
    """bool [N]: `observation` is the first of an episode."""
    raw_reward: np.ndarray
    """float64 [N]: the reward of the environment as it was given, before what Proximo makes of it (clipping)."""
    task_reward: np.ndarray
    """float64 [N]: the innermost environment's reward, below the user's own wrappers."""
    episode_over: np.ndarray
    """bool [N]: the task's own episode really ended; a lost life does not end it."""
    mask: np.ndarray | None
    """bool [N, K]: the actions allowed at `observation`; None where the task masks none."""
    said: Mapping[str, Any] = field(default_factory=dict)
    """What the environments said of themselves, by metric, as `term/forward` [N]: see `environments.terms`."""
    final_known: np.ndarray | None = None
    """bool [N]: where `final_observation`, if it is another object than `observation`, is the state really reached;
    None: in all rows."""


@dataclass(frozen=True, slots=True)
class TensorStep:
    """What N environments answered, on their device. Tensors may be buffers of the environments: copy what is kept."""

    groups: Mapping[str, Any]
    """What the policy sees next, by group, each `[N, ...]`."""
    finals: Mapping[str, Any] | None
    """The states that were reached, where they are shown."""
    reward: Any  # [N]
    over: Any  # bool [N]
    cut: Any  # bool [N]: over, by a time limit
    said: Mapping[str, Any]


class TensorSource(Protocol):
    """Environments whose steps are tensors of one device."""

    device: str

    @property
    def hidden_end(self) -> UserError:
        """What is said where the states that cut episodes reached are asked for and not shown."""

    def step_tensors(self, actions: Any) -> TensorStep:
        """Take one action `[N, A]` in every environment."""


class VectorEnvironment(ABC):
    """N copies of one task, stepped together.

    Attributes:
        name: What the user calls the task.
        backend: Who runs it: "envpool", "gymnasium", "subprocess", or the name of a user's own class.
        count: N.
        observation_space: The space of one environment's observations. Its bounds are not to be trusted: EnvPool
            states wrong ones for some tasks.
        action_space: The space of one environment's actions.
        text: Names of parts of an observation that are text, though their space says numbers.
        together: Rows next to each other that act in one copy of the task: its agents.
        notes: What a person who trains in them has to know, a sentence each.
    """

    name: str
    backend: str
    count: int
    observation_space: gymnasium.Space
    action_space: gymnasium.Space
    notes: tuple[str, ...] = ()
    text: tuple[str, ...] = ()
    together: int = 1

    @abstractmethod
    def reset(self, seeds: Sequence[int]) -> tuple[Observation, np.ndarray | None]:
        """Starts a new episode everywhere.

        Args:
            seeds: One seed for each environment; what an environment does follows from its own seed and actions alone.

        Returns:
            The first observations, and the mask of allowed actions, bool [N, K], or None.
        """

    @abstractmethod
    def step(self, actions: Any) -> Step:
        """Takes one action in every environment.

        Args:
            actions: An array [N, ...] of the action space's dtype; for a Tuple space a tuple of such arrays, for a Dict
                space a dict of them.
        """

    def send(self, actions: Any) -> None:
        """Begins a step that `receive` ends; where the backend can, the environments compute in between.

        Args:
            actions: As for `step`.
        """
        self._sent = actions

    def receive(self) -> Step:
        """Ends the step that `send` began."""
        return self.step(self._sent)

    @property
    def tensors(self) -> TensorSource | None:
        """What steps it without leaving the device; None where steps are of NumPy."""
        return None

    @property
    def game(self) -> Game | None:
        """What lets others move for the seats that are not the rows'; None where nobody else does."""
        return None

    def leave_out_finals(self) -> None:  # noqa: B027
        """Allow the states that ended episodes reached to be unknown from now on: `final_observation` may be any."""

    @abstractmethod
    def close(self) -> None:
        """Frees what the environments hold; never hangs, and may be called twice."""

    def stagger(self, longest: int) -> None:
        """Cuts the first episode after each reset with seeds at a random step, 1 to `longest`, as a time limit would.

        Raises:
            UserError: Where all environments are stepped by somebody else, who can not be told so.
        """
        raise UserError(
            f"random_phase needs environments that are stepped one by one, and those of {self.name} are not: choose "
            "backend gymnasium or subprocess, or set random_phase to 0"
        )

    def statistics(self) -> dict[str, np.ndarray]:
        """What the user's own wrappers have learnt, float64 arrays by name with an axis for copies; none in most."""
        return {}

    def take_statistics(self, statistics: Mapping[str, np.ndarray], *, fixed: bool) -> None:  # noqa: B027
        """Gives the user's wrappers what `statistics` gave; does nothing where there are none.

        Args:
            statistics: With an axis for the copies, or one of 1 for all of them.
            fixed: Whether they learn no more from now on, where they can be told so.
        """

    def render(self) -> np.ndarray | None:
        """A picture of the first copy, uint8 [H, W, 3]; None where nothing is drawn."""
        return None

    @property
    def frame_rate(self) -> float:
        """Steps in a second of the task's own time, as its metadata say; 30 where they say nothing."""
        return 30.0


class AroundEnvironments(VectorEnvironment):
    """Environments around others: whatever is not overridden is theirs."""

    def __init__(self, environments: VectorEnvironment) -> None:
        self._environments = environments
        self.name, self.backend, self.count = environments.name, environments.backend, environments.count
        self.observation_space, self.action_space = environments.observation_space, environments.action_space
        self.notes, self.text, self.together = environments.notes, environments.text, environments.together

    def reset(self, seeds: Sequence[int]) -> tuple[Observation, np.ndarray | None]:
        """See `VectorEnvironment.reset`."""
        return self._environments.reset(seeds)

    def step(self, actions: Any) -> Step:
        """See `VectorEnvironment.step`."""
        self.send(actions)
        return self.receive()

    def send(self, actions: Any) -> None:
        """See `VectorEnvironment.send`."""
        self._environments.send(actions)

    def receive(self) -> Step:
        """See `VectorEnvironment.receive`."""
        return self._environments.receive()

    def close(self) -> None:
        """See `VectorEnvironment.close`."""
        self._environments.close()

    @property
    def tensors(self) -> TensorSource | None:
        """See `VectorEnvironment.tensors`; what stands around them takes part in no step that stays on the device."""
        return self._environments.tensors

    @property
    def game(self) -> Game | None:
        """See `VectorEnvironment.game`."""
        return self._environments.game

    def leave_out_finals(self) -> None:
        """See `VectorEnvironment.leave_out_finals`."""
        self._environments.leave_out_finals()

    def stagger(self, longest: int) -> None:
        """See `VectorEnvironment.stagger`."""
        self._environments.stagger(longest)

    def statistics(self) -> dict[str, np.ndarray]:
        """See `VectorEnvironment.statistics`."""
        return self._environments.statistics()

    def take_statistics(self, statistics: Mapping[str, np.ndarray], *, fixed: bool) -> None:
        """See `VectorEnvironment.take_statistics`."""
        self._environments.take_statistics(statistics, fixed=fixed)

    def render(self) -> np.ndarray | None:
        """See `VectorEnvironment.render`."""
        return self._environments.render()

    @property
    def frame_rate(self) -> float:
        """See `VectorEnvironment.frame_rate`."""
        return self._environments.frame_rate
