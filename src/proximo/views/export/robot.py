"""What a MuJoCo environment says of itself: how often it is told what to do, and names and units of its numbers."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import gymnasium
import numpy as np
from gymnasium.wrappers import OrderEnforcing, PassiveEnvChecker, TimeLimit

from proximo.control.config import TrainConfig
from proximo.control.environments import Source, copies
from proximo.errors import FOREIGN
from proximo.runs.plugins import find_own
from proximo.views.export.mujoco_units import action_units, observation_units


@dataclass(frozen=True)
class Robot:
    """What is known; None where the environment does not say it."""

    rate: float | None = None
    """Actions per second of simulated time."""
    observation: tuple[str, ...] | None = None
    """Names of the numbers of a flat observation: qpos[1], qvel[0]..."""
    actuators: tuple[str, ...] | None = None
    """Names of the numbers of a flat action."""
    observation_units: tuple[str | None, ...] | None = None
    """Unit of each number of a flat observation."""
    action_units: tuple[str | None, ...] | None = None
    """Unit of each number of a flat action; `120 N m` where 1 is 120 N m."""


def ask(config: TrainConfig, source: Source) -> Robot:
    """Make one environment and step it once; nothing is known of those that fail or are no MuJoCo task."""
    try:
        env = _single(config, source)
        if env is None:
            return Robot()
        try:
            told = _asked(env)
            # The policy's clock, not the environment's.
            return told if told.rate is None else replace(told, rate=round(told.rate / config.action_repeat, 6))
        finally:
            if copies(source) is None:
                env.close()
    except FOREIGN:
        return Robot()


def _single(config: TrainConfig, source: Source) -> gymnasium.Env | None:
    made: Any = source
    options: dict[str, Any] = dict(config.options)
    if isinstance(source, str):
        if source in gymnasium.registry:  # EnvPool's tasks of the same name have the same rate
            return gymnasium.make(source, disable_env_checker=True, **options)
        made = find_own(source, "environment") if ":" in source else None
    if callable(made):
        made = made(**options)
    return made if isinstance(made, gymnasium.Env) else None


def _asked(env: gymnasium.Env) -> Robot:
    task: Any = env.unwrapped
    if not hasattr(task, "data") or not hasattr(task, "model") or not hasattr(task.data, "qpos"):
        return Robot()
    first, _ = env.reset(seed=0)
    shown = _shows_state(first, task)
    before = float(task.data.time)
    action = env.action_space.sample()
    env.step(action)  # wrappers may repeat an action: the clock knows
    passed = float(task.data.time) - before
    rate = round(1 / passed, 6) if passed > 0 else None
    if not _is_bare(env):
        return Robot(rate)  # a wrapper may put numbers into another order
    model = task.model
    names = tuple(model.actuator(i).name for i in range(model.nu))
    direct = np.shape(action) == (model.nu,) and np.allclose(task.data.ctrl, action)  # a task may scale it first
    columns = _columns(getattr(task, "observation_structure", None), env)
    return Robot(
        rate,
        columns,
        names if all(names) and np.shape(action) == (model.nu,) else None,
        observation_units(model, task.observation_structure) if columns and shown else None,
        action_units(model) if direct else None,
    )


def _shows_state(observation: Any, task: Any) -> bool:
    """Whether the joints' positions stand in an observation as they are, where `observation_structure` says."""
    structure = getattr(task, "observation_structure", None) or {}
    position = task.data.qpos[int(structure.get("skipped_qpos", 0)) :]
    told = np.asarray(observation).reshape(-1)[: int(structure.get("qpos", 0))]
    return next(iter(structure), None) in ("skipped_qpos", "qpos") and np.array_equal(told, position)


def _is_bare(env: gymnasium.Env) -> bool:
    """Whether nothing is around a task but what `gymnasium.make` puts there, which touches no observation or action."""
    while isinstance(env, gymnasium.Wrapper):
        if type(env) not in (TimeLimit, OrderEnforcing, PassiveEnvChecker):
            return False
        env = env.env
    return True


def _columns(structure: Mapping[str, int] | None, env: gymnasium.Env) -> tuple[str, ...] | None:
    """From Gymnasium's `observation_structure`."""
    if not structure:
        return None
    skipped = int(structure.get("skipped_qpos", 0))
    columns = [
        f"{name}[{i + (skipped if name == 'qpos' else 0)}]"
        for name, count in structure.items()
        if name != "skipped_qpos"
        for i in range(int(count))
    ]
    return tuple(columns) if (len(columns),) == np.shape(env.observation_space.sample()) else None
