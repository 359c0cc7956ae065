"""Named search spaces: what is tried, and over which range."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from proximo.control.config import TrainConfig

if TYPE_CHECKING:
    from optuna import Trial

Space = Callable[["Trial"], dict[str, Any]]
"""Draws settings by dotted name."""


def _optimiser(trial: "Trial") -> dict[str, Any]:
    """Step size and how much is learnt from one rollout."""
    return {
        "learning_rate": trial.suggest_float("learning_rate", 3e-5, 3e-3, log=True),
        "update.epochs": trial.suggest_int("update.epochs", 2, 20),
        "update.clip": trial.suggest_float("update.clip", 0.1, 0.4),
        "update.max_grad_norm": trial.suggest_float("update.max_grad_norm", 0.3, 5.0, log=True),
    }


def _credit(trial: "Trial") -> dict[str, Any]:
    """How far ahead returns look; drawn by 1 - γ and 1 - λ, in which tasks differ by factors."""
    return {
        "gamma": 1.0 - trial.suggest_float("1 - gamma", 1e-3, 0.1, log=True),
        "lam": 1.0 - trial.suggest_float("1 - lam", 5e-3, 0.3, log=True),
    }


def _exploration(trial: "Trial") -> dict[str, Any]:
    return {"update.entropy_coefficient": trial.suggest_float("update.entropy_coefficient", 1e-6, 0.03, log=True)}


def _whole(trial: "Trial") -> dict[str, Any]:
    rollout = trial.suggest_categorical("rollout_length", [32, 64, 128, 256, 512])
    size = trial.suggest_categorical("update.minibatch_size", [32, 64, 128, 256])
    return (
        _optimiser(trial)
        | _credit(trial)
        | _exploration(trial)
        | {
            "rollout_length": rollout,
            "update.minibatch_size": size,
        }
    )


SPACES: Mapping[str, Space] = {
    "optimiser": _optimiser,
    "credit": _credit,
    "usual": lambda trial: _optimiser(trial) | _credit(trial) | _exploration(trial),
    "whole": _whole,
}
"""By name, from the smallest to the largest; each needs some ten trials for each of its numbers."""


def with_settings(config: TrainConfig, drawn: Mapping[str, Any]) -> TrainConfig:
    """The configuration with settings by dotted name."""
    from proximo.runs.config.toml import from_mapping

    nested: dict[str, Any] = {}
    for name, value in drawn.items():
        *path, last = name.split(".")
        table = nested
        for part in path:
            table = table.setdefault(part, {})
        table[last] = value
    return from_mapping(TrainConfig, nested, where="the search space", base=config)
