"""Environments in the shape of rsl_rl's `VecEnv`: Isaac Lab, mjlab, Genesis, MuJoCo Playground's torch wrapper."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from inspect import signature
from typing import Any

import gymnasium
import numpy as np

from proximo.control.environments.backends.tensors import like, owned, truths
from proximo.control.environments.base import Observation, Step, TensorStep, VectorEnvironment, hidden_end
from proximo.control.environments.episodes import first_episode
from proximo.control.environments.terms import from_infos
from proximo.control.environments.visible_leaves import ALL_KEYS, ObservationKeys
from proximo.control.spaces.trees import replace_rows
from proximo.errors import UserError

_METHODS = ("get_observations", "step", "num_envs", "num_actions")


def is_rsl_rl(env: Any) -> bool:
    """Whether an object has the methods of a `VecEnv` (rsl_rl 3 to 5, rsl_rl/env/vec_env.py)."""
    return not isinstance(env, type) and all(hasattr(env, name) for name in _METHODS)


class RslRlEnvironments(VectorEnvironment):
    """A `VecEnv`, whose groups of observations are the keys of a Dict.

    `dones` and `time_outs` may be bool, int64 or float32. The state that a cut episode reached is `extras["final_obs"]`
    (Isaac Lab 3), or what the step shows where the environment does not reset itself (mjlab's `auto_reset = False`).

    Args:
        env: it.
        name: what the user calls it.
        keys: what of its observations is kept.
    """

    backend = "rsl_rl"

    def __init__(self, env: Any, name: str, keys: ObservationKeys = ALL_KEYS) -> None:
        self._env, self.name, self.count = env, name, int(env.num_envs)
        self.device = str(env.device)
        self._finals_wanted, self._longest, self._steps = True, 0, 0
        self._unread: Any = None
        """What the last step of tensors showed."""
        # Asked once: MuJoCo Playground's answer is a reset, and Isaac Lab's draws its noise anew.
        self._shown = self._groups(env.get_observations())
        spaces: dict[str, gymnasium.Space] = {key: _box(x.shape[1:]) for key, x in self._shown.items()}
        self._kept = keys.kept(gymnasium.spaces.Dict(spaces), name)
        self.observation_space, self.action_space = self._kept.space, _box((int(env.num_actions),))
        self.notes = self._kept.notes

    def reset(self, seeds: Sequence[int]) -> tuple[Observation, np.ndarray | None]:
        """See `VectorEnvironment.reset`; one that has no `reset` goes on from where it is."""
        self._steps = 0
        if hasattr(self._env, "seed") and callable(self._env.seed):
            self._env.seed(int(seeds[0]) % 2**31)
        if hasattr(self._env, "reset"):
            answer = self._env.reset()
            self._shown = self._groups(answer[0] if isinstance(answer, tuple) else answer)
        elif self._unread is not None:
            self._shown = self._groups(self._unread)
        if self._longest:
            self._spread(seeds)
        return self._kept.take(self._shown), None

    def _spread(self, seeds: Sequence[int]) -> None:
        """Put every episode at a random step, as rsl_rl's `init_at_random_ep_len` does: `first_episode` are left."""
        drawn = np.array([self._longest - first_episode(seed, self._longest) for seed in seeds])
        counted = self._env.episode_length_buf
        self._env.episode_length_buf = like(drawn, counted).to(counted.dtype)

    def step(self, actions: Any) -> Step:
        """See `VectorEnvironment.step`."""
        self._steps += 1
        answer = self._env.step(like(np.asarray(actions), self._env.device))
        if not isinstance(answer, tuple) or len(answer) != 4:
            raise UserError(
                f"{self.name} has to return (observations, rewards, dones, extras), as rsl_rl's VecEnv says"
            )
        seen, reward, dones, extras = answer
        over = truths(dones)
        cut = over & truths(extras["time_outs"]) if "time_outs" in extras else np.zeros_like(over)
        shown = self._groups(seen)
        final, self._shown = self._ends(shown, over, cut, extras)
        reward = owned(reward).reshape(-1).astype(np.float64)
        observation = self._kept.take(self._shown)
        return Step(
            observation=observation,
            final_observation=observation if final is self._shown else self._kept.take(final),
            reward=reward,
            terminated=over & ~cut,
            truncated=cut,
            valid=np.ones_like(over),
            started=over,
            raw_reward=reward,
            task_reward=reward,
            episode_over=over,
            mask=None,
            said=from_infos(extras, self.count),
        )

    @property
    def hidden_end(self) -> UserError:
        """See `TensorSource.hidden_end`."""
        show = "set compute_final_obs = True in Isaac Lab's cfg or auto_reset = False in mjlab's"
        return hidden_end(self.name, "resets by itself without extras['final_obs']", show)

    @property
    def tensors(self) -> RslRlEnvironments | None:
        """See `VectorEnvironment.tensors`: not where rows are to be reset by hand, which needs their numbers."""
        return None if self._by_hand else self

    @property
    def _by_hand(self) -> bool:
        return getattr(getattr(self._env, "cfg", None), "auto_reset", True) is False

    def step_tensors(self, actions: Any) -> TensorStep:
        """See `TensorSource.step_tensors`."""
        seen, reward, dones, extras = self._env.step(actions.to(self._env.device))
        groups = seen if hasattr(seen, "keys") else {"policy": seen}
        self._unread = groups
        over = dones.reshape(-1) != 0
        cut = over & (extras["time_outs"].reshape(-1) != 0) if "time_outs" in extras else over & False
        said = from_infos(extras, self.count)
        return TensorStep(groups, extras.get("final_obs"), reward.reshape(-1), over, cut, said)

    def _ends(
        self, shown: dict[str, np.ndarray], over: np.ndarray, cut: np.ndarray, extras: Mapping[str, Any]
    ) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """The states that were reached, and those that are seen next."""
        if self._by_hand:
            return shown, self._reset_rows(shown, over) if over.any() else shown
        if over.any() and extras.get("final_obs") is not None:
            return replace_rows(shown, over, self._groups(extras["final_obs"])), shown
        if cut.any() and self._finals_wanted:
            raise self.hidden_end
        return shown, shown

    def _reset_rows(self, shown: dict[str, np.ndarray], over: np.ndarray) -> dict[str, np.ndarray]:
        answer = self._resets_rows().reset(env_ids=like(np.flatnonzero(over), self._env.device))
        return dict(replace_rows(shown, over, self._groups(answer[0] if isinstance(answer, tuple) else answer)))

    def _resets_rows(self) -> Any:
        """What takes the rows to be reset: mjlab's wrapper for rsl_rl resets all, the environment in it takes some."""
        for env in (self._env, getattr(self._env, "unwrapped", self._env)):
            if hasattr(env, "reset") and "env_ids" in signature(env.reset).parameters:
                return env
        raise UserError(
            f"{self.name} says auto_reset = False, and neither it nor its `unwrapped` has reset(env_ids=...): set "
            "auto_reset = True, or add it"
        )

    def _groups(self, seen: Any) -> dict[str, np.ndarray]:
        """Observations by group; a tensor alone, as rsl_rl 2 has it, is the group `policy`."""
        seen = seen[0] if isinstance(seen, tuple) else seen
        return dict(owned(seen if hasattr(seen, "keys") else {"policy": seen}))

    def leave_out_finals(self) -> None:
        """See `VectorEnvironment.leave_out_finals`."""
        self._finals_wanted = False

    def stagger(self, longest: int) -> None:
        """See `VectorEnvironment.stagger`; the episodes' own clocks are set."""
        if not hasattr(self._env, "episode_length_buf"):
            super().stagger(longest)
        self._longest = longest

    def close(self) -> None:
        """See `VectorEnvironment.close`."""
        if hasattr(self._env, "close"):
            self._env.close()


def _box(shape: tuple[int, ...]) -> gymnasium.spaces.Box:
    return gymnasium.spaces.Box(-np.inf, np.inf, tuple(shape), np.float32)
