"""What a training run came to, and where it lies."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from proximo.control.config import TrainConfig


@dataclass(frozen=True)
class Run:
    """What a training run came to."""

    path: Path
    config: TrainConfig
    results: Mapping[str, Any]
    """`last_100_training_return`, `final_deterministic`, `final_sampled`, `best_checkpoint`, `steps`, `seconds`,
    `exact_resume` (False if environments once did not come back where the run went on)... Where wrappers change the
    reward, also each of the returns as the task itself pays it, with `_task` after its name; else these are None."""
    stopped: str | None = None
    """What ended it early, a signal's name or `stop-at`; the same command resumes."""
    finished_before: bool = False
    """Whether an earlier call finished it, and this one has only read what it came to."""

    def __repr__(self) -> str:
        """Where it lies and how it ended; `config` and `results` have the rest."""
        steps = self.results.get("steps", 0)
        ended = f", stopped by {self.stopped}" if self.stopped else ""
        return f"Run({str(self.path)!r}, {self.config.environment}, {steps:,} steps{ended})"

    def __fspath__(self) -> str:
        """Its folder, wherever a run is asked for."""
        return str(self.path)


_AROUND_ALL = ("PassiveEnvChecker", "OrderEnforcing", "TimeLimit")
"""Wrappers that `gymnasium.make` puts around nearly every environment."""


def default_run(config: TrainConfig) -> str:
    """`runs/ENVIRONMENT-PRESET-SEED`; of an environment object the names of its classes, without Gymnasium's own."""
    name = config.environment
    if name.startswith("object:"):
        name = "-".join(x for x in name.removeprefix("object:").split(".") if x not in _AROUND_ALL)
    parts = (name, Path(config.preset).stem, config.seed)
    return "runs/" + "-".join(str(part).replace("/", "_").replace(":", "_") for part in parts)
