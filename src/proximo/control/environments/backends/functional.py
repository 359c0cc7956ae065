"""Functional environments of JAX: MuJoCo Playground, brax, and whatever has `reset(rng)` and `step(state, action)`."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np

from proximo.control.environments.backends.tensors import owned
from proximo.control.environments.base import Observation, Step, TensorStep, VectorEnvironment, hidden_end
from proximo.control.environments.terms import from_infos
from proximo.control.environments.visible_leaves import ALL_KEYS, ObservationKeys
from proximo.control.spaces.numbers import fits_float32, is_wide
from proximo.control.spaces.trees import map_leaves, replace_rows
from proximo.errors import UserError

_COUNT = 1
"""Copies of an object that is made already, which says no number."""


def is_functional(env: Any) -> bool:
    """Whether an object has the methods of brax's `Env` or Playground's `MjxEnv`."""
    if isinstance(env, type) or not all(hasattr(type(env), name) for name in ("reset", "step", "action_size")):
        return False
    return len(inspect.signature(env.step).parameters) == 2


class FunctionalEnvironments(VectorEnvironment):
    """As many copies as are asked for of a functional environment, stepped by one compiled function.

    One without a leading axis is mapped over copies, and cut after its `episode_length` (Playground's is in its
    configuration). Wrappers are taken as they are (`info["truncation"]` tells a limit), but for one that resets by
    itself (`info["first_obs"]`): it would hide the state that a cut episode reached and start each episode from the
    same cached state, so what is below it is stepped and reset here, with a new key for each episode.

    Args:
        env: it.
        name: what the user calls it.
        keys: what of its observations is kept.
        count: copies.
    """

    backend = "jax"

    def __init__(self, env: Any, name: str, keys: ObservationKeys = ALL_KEYS, count: int | None = None) -> None:
        self._jax: Any = importlib.import_module("jax")
        self.device = "cpu" if self._jax.devices()[0].platform == "cpu" else "cuda"
        self.name, self.count = name, count or _COUNT
        env, first, single = self._below_resets(env)
        self._limit = None if "truncation" in first.info else _episode_length(env)
        self._reset = self._jax.vmap(env.reset) if single else env.reset
        self._step = self._jax.vmap(env.step) if single else env.step
        self._restarted, self._advanced = self._jax.jit(self._restart), self._jax.jit(self._advance)
        lead = 0 if single else 1
        shown = first.obs if hasattr(first.obs, "keys") else {"": first.obs}
        spaces: dict[str, gymnasium.Space] = {key: _box(shown[key].shape[lead:]) for key in shown.keys()}  # noqa: SIM118
        self._kept = keys.kept(spaces[""] if "" in spaces else gymnasium.spaces.Dict(spaces), name)
        self.observation_space = self._kept.space
        self.action_space = gymnasium.spaces.Box(-1, 1, (int(env.action_size),), np.float32)
        endless = self._limit is None and "truncation" not in first.info
        said = f"{name} states no episode_length: its episodes end only where it ends them"
        self.notes = (*self._kept.notes, *((said,) if endless else ()))

    def reset(self, seeds: Sequence[int]) -> tuple[Observation, np.ndarray | None]:
        """See `VectorEnvironment.reset`."""
        numbers = self._jax.numpy.asarray(np.array([int(seed) % 2**31 for seed in seeds], np.uint32))
        self._keys = self._jax.vmap(self._jax.random.PRNGKey)(numbers)
        none = self._jax.numpy.asarray(np.zeros(self.count, np.int32))
        self._state, self._clocks = self._restarted(self._keys, none), (none, none)
        return self._seen(self._state.obs), None

    def step(self, actions: Any) -> Step:
        """See `VectorEnvironment.step`."""
        reached, reward, over, cut = self._take(self._jax.numpy.asarray(np.asarray(actions, np.float32)))
        over, cut, reward = owned(over), owned(cut), owned(reward).astype(np.float64)
        final = observation = self._seen(self._state.obs)
        known = over
        if over.any():
            # A state that ended an episode for good is worth nothing, and may be what made it end: a NaN.
            after = self._seen(reached)
            known = cut | (over & _finite(after))
            final = replace_rows(observation, known, after)
        ends = over & ~cut, cut, np.ones(self.count, bool), over
        said = from_infos({key: owned(x) for key, x in self._state.metrics.items()}, self.count)
        return Step(observation, final, reward, *ends, reward, reward, over, None, said, known)

    @property
    def hidden_end(self) -> UserError:
        """See `TensorSource.hidden_end`; they are never hidden here."""
        return hidden_end(self.name, "hides its last states")

    @property
    def tensors(self) -> FunctionalEnvironments:
        """See `VectorEnvironment.tensors`."""
        return self

    def step_tensors(self, actions: Any) -> TensorStep:
        """See `TensorSource.step_tensors`: by DLPack in both directions, which copies nothing."""
        given = self._jax.dlpack.from_dlpack(actions.detach().to(self.device).contiguous())
        reached, reward, over, cut = map(self._lent, self._take(given))
        said = from_infos(self._lent(self._state.metrics), self.count)
        return TensorStep(self._lent(self._state.obs), reached, reward, over != 0, cut != 0, said)

    def _lent(self, tree: Any) -> Any:
        """Arrays of JAX as tensors of the same memory."""
        from torch.utils.dlpack import from_dlpack

        return {key: self._lent(tree[key]) for key in tree} if hasattr(tree, "keys") else from_dlpack(tree)

    def close(self) -> None:
        """See `VectorEnvironment.close`: there is nothing to free."""

    def _take(self, actions: Any) -> tuple[Any, Any, Any, Any]:
        """Take one step; observations that it reached, rewards and ends stay JAX's."""
        self._state, self._clocks, told = self._advanced(self._state, actions, self._keys, self._clocks)
        return told

    def _advance(self, state: Any, actions: Any, keys: Any, clocks: tuple[Any, Any]) -> tuple[Any, Any, Any]:
        """One step of all copies; those whose episodes it ended start anew."""
        jnp = self._jax.numpy
        steps, episodes = clocks
        after, steps = self._step(state, actions), steps + 1
        done = after.done != 0  # of any type; NaN is an end
        told = after.info.get("truncation", None)
        cut = done & (told != 0) if told is not None else ~done & (steps >= (self._limit or np.inf))
        over = done | cut
        episodes = episodes + over
        started = self._jax.lax.cond(
            over.any(), lambda: self._anew(after, over, self._restart(keys, episodes)), lambda: after
        )
        return started, (jnp.where(over, 0, steps), episodes), (after.obs, after.reward, over, cut)

    def _restart(self, keys: Any, episodes: Any) -> Any:
        """States in which each copy's episode of that number begins."""
        return self._reset(self._jax.vmap(self._jax.random.fold_in)(keys, episodes))

    def _anew(self, after: Any, over: Any, fresh: Any) -> Any:
        """The states with those rows replaced whose episodes are over; metrics are those of the last step."""
        jnp = self._jax.numpy

        def chosen(new: Any, old: Any) -> Any:
            if not old.shape or old.shape[0] != self.count:  # shared by all copies
                return old
            rows = over.reshape((self.count,) + (1,) * (len(old.shape) - 1))
            return jnp.where(rows, new, old).astype(old.dtype)

        return self._jax.tree.map(chosen, fresh.replace(metrics=after.metrics), after)

    def _below_resets(self, env: Any) -> tuple[Any, Any, bool]:
        """What does not reset by itself, the shapes of its first state, and whether it is a single one."""
        while True:
            first, single = self._first(env)
            if not any(str(key).endswith("first_obs") for key in first.info) or not hasattr(env, "env"):
                return env, first, single
            env = env.env

    def _first(self, env: Any) -> tuple[Any, bool]:
        """The shapes of its first state, and whether they have no axis for copies."""
        key = self._jax.random.PRNGKey(0)
        try:
            first = self._jax.eval_shape(env.reset, key)
            if not first.done.shape:
                return first, True
        except (TypeError, ValueError, IndexError):  # it is mapped over keys already, and one has no axis for that
            pass
        keys = self._jax.vmap(self._jax.random.PRNGKey)(self._jax.numpy.asarray(np.zeros(self.count, np.uint32)))
        return self._jax.eval_shape(env.reset, keys), False

    def _seen(self, observation: Any) -> Any:
        """Observations of one's own; what float32 has no room for stays as it is, and the rest is float32."""
        groups = self._kept.take(owned(observation))
        return map_leaves(lambda x: x if is_wide(x.dtype, np.float32) else x.astype(np.float32, copy=False), groups)


def _episode_length(env: Any) -> int | None:
    """The time limit that an environment, or its configuration, states."""
    for holder in (env, getattr(env, "_config", None), getattr(env, "unwrapped", None)):
        if (found := getattr(holder, "episode_length", None)) is not None:
            return int(found)
    return None


def _finite(seen: Any) -> np.ndarray:
    """Rows that a policy can read."""
    leaves = list(seen.values()) if isinstance(seen, dict) else [seen]
    return np.logical_and.reduce([fits_float32(x).reshape(len(x), -1).all(1) for x in leaves])


def _box(shape: Sequence[int]) -> gymnasium.spaces.Box:
    return gymnasium.spaces.Box(-np.inf, np.inf, tuple(shape), np.float32)
