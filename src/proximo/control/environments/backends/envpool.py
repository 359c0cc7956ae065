"""Environments run by EnvPool's C++ threads."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import numpy as np

from proximo.control.environments.base import Observation, Step, VectorEnvironment
from proximo.control.environments.terms import TERM, is_term
from proximo.errors import UserError, nearest
from proximo.scale.cpus import available_cpus

_OURS = ("num_envs", "batch_size", "num_threads", "seed", "env_seed", "gym_reset_return_info", "max_num_players")
_RENDERING = (
    "from_pixels",
    "render_mode",
    "render_env_id",
    "render_width",
    "render_height",
    "render_camera_id",
)  # options of envpool.make that are not fields of a task's own configuration
_MASKS = ("action_mask", "legal_action_mask")


def import_envpool() -> ModuleType | None:
    """EnvPool, or None where it is not installed (it has wheels for Linux on x86-64)."""
    try:
        import envpool
    except ModuleNotFoundError as error:
        if error.name != "envpool":
            raise
        return None
    return envpool


class EnvPoolEnvironments(VectorEnvironment):
    """A pool of EnvPool environments.

    EnvPool returns the true final observation with `terminated` or `truncated`; the next step only reports the reset,
    whatever the action: that row is not `valid`. Where an episode terminates in the very step of its time limit,
    EnvPool says `truncated`.

    Args:
        name: A task of EnvPool.
        count: How many environments.
        options: Options of `envpool.make` for this task, such as `max_episode_steps` or `episodic_life`.
        threads: Threads that step them; by default as many as the CPUs this process may use, at most `count`.

    Raises:
        UserError: When EnvPool is missing, does not have the task or the option, or plays it with several agents.
    """

    backend = "envpool"
    text = ("mission",)  # the letters of a sentence, as bytes (MiniGrid, BabyAI)

    def __init__(
        self, name: str, count: int, *, options: Mapping[str, Any] | None = None, threads: int | None = None
    ) -> None:
        self.name, self.count = name, count
        self._options = dict(options or {})
        self._threads = min(count, available_cpus()) if threads is None else threads
        self._pool: Any = None
        self._over = np.zeros(count, dtype=bool)
        spec = _make_spec(name, self._options)
        with _without_precision_warnings():
            self.observation_space = spec.gymnasium_observation_space
            self.action_space = spec.gymnasium_action_space
        keys = spec.state_array_spec
        self._raw_key = "reward" if self._options.get("reward_clip") and "info:reward" in keys else None
        self._over_key = "terminated" if self._options.get("episodic_life") and "info:terminated" in keys else None
        self._mask_key = next((key for key in _MASKS if f"info:{key}" in keys), None)
        infos = [key.removeprefix("info:") for key in keys if key.startswith("info:")]
        self._terms = {key: TERM + key.removeprefix("reward_") for key in infos if is_term(key)}

    def reset(self, seeds: Sequence[int]) -> tuple[Observation, np.ndarray | None]:
        """See `VectorEnvironment.reset`; seeds are taken modulo 2^31, EnvPool's range."""
        import envpool

        if len(seeds) != self.count:
            raise ValueError(f"{len(seeds)} seeds for {self.count} environments")
        self.close()
        # A pool cannot be seeded again, and making one takes milliseconds.
        with _without_precision_warnings():
            self._pool = envpool.make_gymnasium(
                self.name,
                num_envs=self.count,
                num_threads=self._threads,
                env_seed=[int(seed) % 2**31 for seed in seeds],
                **self._options,
            )
            observation, info = self._pool.reset()
        self._over = np.zeros(self.count, dtype=bool)
        return observation, self._mask(info)

    def step(self, actions: Any) -> Step:
        """See `VectorEnvironment.step`."""
        self.send(actions)
        return self.receive()

    def send(self, actions: Any) -> None:
        """See `VectorEnvironment.send`."""
        self._pool.send(np.asarray(actions))

    def receive(self) -> Step:
        """See `VectorEnvironment.receive`."""
        observation, reward, terminated, truncated, info = self._pool.recv()
        started, valid = self._over, ~self._over
        over = self._over = terminated | truncated
        reward = raw_reward = reward.astype(np.float64)
        if self._raw_key is not None:
            raw_reward = info[self._raw_key].astype(np.float64)
        if self._over_key is not None:
            over = ((info[self._over_key] != 0) | truncated) & valid
        return Step(
            observation=observation,
            final_observation=observation,
            reward=reward,
            terminated=terminated,
            truncated=truncated,
            valid=valid,
            started=started,
            raw_reward=raw_reward,
            task_reward=raw_reward,
            episode_over=over,
            mask=self._mask(info),
            said={name: info[key] for key, name in self._terms.items()},
        )

    def close(self) -> None:
        """See `VectorEnvironment.close`."""
        if self._pool is not None:
            self._pool.close()
        self._pool = None  # its threads end with it

    def _mask(self, info: Mapping[str, Any]) -> np.ndarray | None:
        return None if self._mask_key is None else np.asarray(info[self._mask_key]).astype(bool)


def _make_spec(name: str, options: Mapping[str, Any]) -> Any:
    envpool = import_envpool()
    if envpool is None:
        raise UserError(
            f"{name} cannot run on EnvPool, which is not installed: `pip install envpool` (Linux on x86-64), or choose "
            "backend 'gymnasium'"
        )
    names = envpool.list_all_envs()
    if name not in names:
        likely = nearest(name, names)
        raise UserError(
            f"EnvPool has no environment {name!r}: {f'did you mean {likely}? ' if likely else ''}"
            f"`proximo environments {name.split('-')[0]}` lists those alike"
        )
    try:
        default = envpool.make_spec(name)
    except (ImportError, RuntimeError) as error:  # a system library or a file of the task is missing
        raise UserError(f"EnvPool cannot make {name}: {error}") from error
    _check_options(name, options, default.config._fields)
    if default.config.max_num_players > 1:
        raise UserError(f"{name} is played by several agents at once, which is not supported: choose another task")
    try:
        return envpool.make_spec(name, **options)
    except (TypeError, ValueError, RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"EnvPool cannot make {name} with {dict(options)}: {reason}") from error


def _check_options(name: str, options: Mapping[str, Any], fields: Sequence[str]) -> None:
    allowed = sorted({*fields, *_RENDERING} - {*_OURS, "base_path"})
    for key in options:
        if key in _OURS:
            raise UserError(f"option {key!r} of {name} is set by Proximo itself: remove it from the options")
        if key not in allowed:
            likely = nearest(key, allowed)
            raise UserError(
                f"{name} on EnvPool has no option {key!r}: {f'did you mean {likely}?' if likely else 'remove it;'} "
                f"it has {', '.join(allowed)}"
            )


@contextmanager
def _without_precision_warnings() -> Iterator[None]:
    """EnvPool states bounds in float64 for float32 spaces, and Gymnasium complains of each."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*precision lowered by casting.*")
        yield
