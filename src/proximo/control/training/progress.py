"""How far a run is: its counters, its last episodes, and the best policy so far."""

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from proximo.algorithms.base import Counters
from proximo.control.environments.episodes import Episode
from proximo.control.models.policy import ControlPolicy
from proximo.control.training.vital_signs import ended
from proximo.runs.storage.checkpoint import under

RECENT = 100  # episodes whose mean return is reported
FEWEST = 10  # episodes that a mean needs before a policy can be called the best so far


@dataclass
class Progress(Counters):
    """Counters of a run."""

    steps: int = 0
    """Environment steps taken; rows that report a reset do not count."""
    episodes: int = 0
    longest: int = 0
    """Steps of the longest episode seen, ended or in progress."""
    cut: int = 0
    """Episodes that were in progress when the environments started anew, and are in no return."""
    evaluated: int = 0
    """Steps at the last evaluation."""
    evaluation_return: float | None = None
    """Its mean return."""
    exact_resume: bool = True
    """Wherever the run went on, the environments came back to where they were."""


class RecentEpisodes:
    """The last `RECENT` training episodes, and those that no iteration has told of yet."""

    def __init__(self) -> None:
        self.returns: deque[float] = deque(maxlen=RECENT)
        self.task_returns: deque[float] = deque(maxlen=RECENT)
        """Of the task itself, below the user's wrappers."""
        self.lengths: deque[int] = deque(maxlen=RECENT)
        self._untold: list[Episode] = []
        # Those of the rollout that only shows what the numbers look like are the first iteration's.

    def add(self, episodes: Sequence[Episode]) -> None:
        """Take those that ended."""
        self.returns.extend(episode.value for episode in episodes)
        self.task_returns.extend(episode.task_value for episode in episodes)
        self.lengths.extend(episode.length for episode in episodes)
        self._untold.extend(episodes)

    def told(self) -> dict[str, float]:
        """Metrics of those that ended since this was last asked."""
        told, self._untold = ended(self._untold), []
        return told

    @property
    def mean_return(self) -> float | None:
        """Mean return; None before the first has ended."""
        return float(np.mean(self.returns)) if self.returns else None

    @property
    def mean_task_return(self) -> float | None:
        """The same of the task itself; None where it is the same number."""
        return None if self.task_returns == self.returns else float(np.mean(self.task_returns))

    def state(self) -> dict[str, Any]:
        """Everything, as JSON."""
        names = ("returns", "task_returns", "lengths")
        return {name: list(getattr(self, name)) for name in names} | {"ended": [list(each) for each in self._untold]}

    def load(self, state: Mapping[str, Any]) -> None:
        """Take over what `state` gave."""
        self.returns.extend(state["returns"])
        self.task_returns.extend(state["task_returns"])
        self.lengths.extend(state["lengths"])
        self._untold = [Episode(*episode) for episode in state.get("ended", [])]  # none in older checkpoints


class BestPolicy:
    """The policy with the highest mean return so far, as copies of its weights."""

    def __init__(self) -> None:
        self.mean_return = -np.inf
        self.weights: dict[str, Tensor] = {}
        """Its state dict; empty while there is none."""
        self.wrappers: dict[str, np.ndarray] = {}
        """What the user's wrappers had learnt by then."""

    def keep(self, policy: ControlPolicy, mean_return: float) -> None:
        """Keep the policy as it is, whatever was kept before."""
        self.mean_return = mean_return
        self.weights = {name: x.detach().clone() for name, x in policy.state_dict().items()}
        self.wrappers = policy.wrappers

    def state(self) -> tuple[dict[str, Tensor], float | None]:
        """Tensors for a checkpoint, and the mean return; None while there is none."""
        tensors = {f"best/{name}": x for name, x in self.weights.items()}
        tensors |= {f"wrappers/best/{name}": torch.from_numpy(x) for name, x in self.wrappers.items()}
        return tensors, None if np.isinf(self.mean_return) else self.mean_return

    def load(self, tensors: Mapping[str, Tensor], mean_return: float | None) -> None:
        """Take over what `state` gave."""
        self.weights = under("best/", tensors)
        self.wrappers = {name: x.numpy() for name, x in under("wrappers/best/", tensors).items()}
        self.mean_return = -np.inf if mean_return is None else mean_return
