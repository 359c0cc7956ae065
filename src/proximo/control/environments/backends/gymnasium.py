"""Any Gymnasium vector environment, in any of its three autoreset modes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import gymnasium
import numpy as np
from gymnasium.error import ClosedEnvironmentError
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from proximo.control.environments.backends.answers import (
    ACTION_MASK,
    EPISODE_OVER,
    RAW_REWARD,
    TASK_REWARD,
    WrongAnswerError,
    kind_of,
    read_end,
    read_reward,
)
from proximo.control.environments.backends.reporting import (
    LentEnvironment,
    RemoteEnvironment,
    ReportingEnvironment,
    masks_not_asked,
)
from proximo.control.environments.backends.subprocesses import WatchedSubprocesses
from proximo.control.environments.backends.tensors import HIDES, SHOW, VectorTensors, first_leaf, like, owned
from proximo.control.environments.base import Observation, Step, VectorEnvironment, hidden_end
from proximo.control.environments.problems import require_spaces, space_problem
from proximo.control.environments.terms import from_infos
from proximo.control.environments.visible_leaves import ALL_KEYS, ObservationKeys
from proximo.control.environments.wrappers import statistics as learnt
from proximo.control.environments.wrappers.recording import RewardRecorder
from proximo.control.spaces.masks import MaskReader
from proximo.control.spaces.trees import is_tensor, map_leaves, replace_rows, take_row
from proximo.errors import UserError


class GymnasiumEnvironments(VectorEnvironment):
    """Adapts a Gymnasium VectorEnv, or anything with its methods.

    Args:
        vector: The vector environment; its metadata must state its autoreset mode.
        name: What the user calls the task.
        backend: Who runs it.
        keys: What of its observations is kept.

    Raises:
        UserError: When the autoreset mode is unknown, or same-step autoreset hides the final observations.
    """

    def __init__(self, vector: Any, name: str, backend: str = "gymnasium", keys: ObservationKeys = ALL_KEYS) -> None:
        require_spaces(vector, name, "single_")
        self.name, self.backend, self.count = name, backend, vector.num_envs
        self._kept = keys.kept(vector.single_observation_space, name)
        self.observation_space, self.action_space = self._kept.space, vector.single_action_space
        self.notes = (*self._kept.notes, *learnt.notes(vector))
        # Those who step single environments ask each of them, wherever it lives.
        first = (getattr(vector, "envs", None) or [None])[0]
        self._reporters = isinstance(vector, WatchedSubprocesses) or isinstance(first, ReportingEnvironment)
        if first is not None and not self._reporters:
            self.notes += (*learnt.lost(first), *masks_not_asked(first))
        self._vector = vector
        self._recorder = RewardRecorder(vector)
        self._take = {
            AutoresetMode.NEXT_STEP: self._take_next_step,
            AutoresetMode.SAME_STEP: self._take_same_step,
            AutoresetMode.DISABLED: self._take_disabled,
        }[_autoreset_mode(vector, name)]
        # A VectorEnv made with copy=False writes over the observations it has given away.
        self._gives_copies = bool(getattr(vector, "copy", isinstance(vector, WatchedSubprocesses)))
        self._over = np.zeros(self.count, dtype=bool)
        self._finals_wanted = True
        self._tensor: Any = None
        """A tensor that it gave: then it takes tensors of that device."""
        self._steps = 0
        self._masks, self._masked = MaskReader.of(self.action_space), False
        same_step = self._take == self._take_same_step and not self._reporters and not self._recorder.recording
        self._tensors = VectorTensors.of(vector, name) if same_step else None

    @property
    def tensors(self) -> VectorTensors | None:
        """See `VectorEnvironment.tensors`: of one that resets in the same step and says its device, as ManiSkill's."""
        return self._tensors

    def reset(self, seeds: Sequence[int]) -> tuple[Observation, np.ndarray | None]:
        """See `VectorEnvironment.reset`."""
        if len(seeds) != self.count:
            raise ValueError(f"{len(seeds)} seeds for {self.count} environments")
        self._over = np.zeros(self.count, dtype=bool)
        self._steps = 0
        answer = self._vector.reset(seed=self._seed(seeds))
        self._require(answer, 2, "(observations, infos)")
        observation, infos = answer
        leaf = first_leaf(observation)
        self._tensor = leaf if is_tensor(leaf) else None
        self._recorder.follow()
        self._recorder.take(0.0)
        return self._owned(observation), self._mask(infos)

    def _seed(self, seeds: Sequence[int]) -> int | list[int]:
        """A seed each where Gymnasium's own classes take them; vector environments in general take only one number."""
        from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv, VectorEnv

        inner = getattr(self._vector, "unwrapped", self._vector)
        only_one = isinstance(inner, VectorEnv) and not isinstance(inner, SyncVectorEnv | AsyncVectorEnv)
        return int(seeds[0]) if only_one else [int(seed) for seed in seeds]

    def step(self, actions: Any) -> Step:
        """See `VectorEnvironment.step`."""
        given = actions if self._tensor is None else map_leaves(lambda x: like(np.asarray(x), self._tensor), actions)
        answer = self._vector.step(given)
        self._steps += 1
        self._require(answer, 5, "(observations, rewards, terminated, truncated, infos)")
        observation, rewards, terminations, truncations, infos = answer
        reward = self._row(rewards, read_reward)
        terminated = self._row(terminations, partial(read_end, "terminated"))
        truncated = self._row(truncations, partial(read_end, "truncated"))
        if not reward.shape == terminated.shape == truncated.shape == (self.count,):
            raise UserError(
                f"{self.name} returned rewards of shape {reward.shape}, terminated {terminated.shape} and truncated "
                f"{truncated.shape} at its step {self._steps}: make it return {self.count} of each"
            )
        return self._take(self._owned(observation), reward, terminated, truncated, {} if infos is None else infos)

    def _require(self, answer: Any, count: int, due: str) -> None:
        if not isinstance(answer, tuple | list) or len(answer) != count:
            raise UserError(
                f"{self.name} returned {kind_of(answer)} at its step {self._steps} where {due} is due: make it return "
                "what gymnasium.vector.VectorEnv says"
            )

    def _row(self, values: Any, read: Callable[[Any], float | bool]) -> np.ndarray:
        """One value for each environment, whatever they come in, read as that of one environment is."""
        row: np.ndarray = np.asarray(values.detach().cpu() if hasattr(values, "detach") else values)
        kind = np.float64 if read is read_reward else np.bool_
        if not row.ndim:
            return np.zeros((), kind)  # of a shape that is refused with the others
        if row.dtype.kind not in ("b" if kind is np.bool_ else "biuf"):
            try:
                row = np.array([read(value) for value in row.tolist()], kind)
            except WrongAnswerError as error:
                raise UserError(f"{self.name} {error} at its step {self._steps}") from error
        row = row.astype(kind)
        return row.reshape(self.count) if row.shape == (self.count, 1) else row

    def leave_out_finals(self) -> None:
        """See `VectorEnvironment.leave_out_finals`."""
        self._finals_wanted = False

    def stagger(self, longest: int) -> None:
        """See `VectorEnvironment.stagger`."""
        if not self._reporters:
            super().stagger(longest)
        self._vector.call("proximo_stagger", longest)

    def statistics(self) -> dict[str, np.ndarray]:
        """See `VectorEnvironment.statistics`; none where its processes have ended."""
        if self._reporters:
            try:
                return learnt.stacked(self._vector.call("proximo_statistics"))
            except (UserError, ClosedEnvironmentError):
                return {}
        return learnt.stacked([learnt.read(self._vector)])

    def take_statistics(self, statistics: Mapping[str, np.ndarray], *, fixed: bool) -> None:
        """See `VectorEnvironment.take_statistics`."""
        if self._reporters:
            self._vector.call("proximo_take_statistics", dict(statistics), fixed)
        else:
            learnt.write(self._vector, statistics, 0, fixed=fixed)

    def render(self) -> np.ndarray | None:
        """See `VectorEnvironment.render`."""
        drawn = self._vector.render()
        return drawn[0] if isinstance(drawn, tuple | list) else drawn

    @property
    def frame_rate(self) -> float:
        """See `VectorEnvironment.frame_rate`."""
        return float((getattr(self._vector, "metadata", None) or {}).get("render_fps") or 30.0)

    def close(self) -> None:
        """See `VectorEnvironment.close`."""
        self._recorder.close()
        try:
            self._vector.close()
        except BaseException:
            self._vector.closed = True  # else it is tried again when it is forgotten
            raise

    def _take_next_step(
        self, observation: Any, reward: np.ndarray, terminated: np.ndarray, truncated: np.ndarray, infos: dict[str, Any]
    ) -> Step:
        started, valid = self._over, ~self._over
        self._over = terminated | truncated
        reward[started] = 0.0
        mask = self._mask(infos)
        return self._step(observation, observation, reward, terminated, truncated, valid, started, infos, mask)

    def _take_same_step(
        self, observation: Any, reward: np.ndarray, terminated: np.ndarray, truncated: np.ndarray, infos: dict[str, Any]
    ) -> Step:
        over = terminated | truncated
        final = self._with_final(observation, infos, over) if over.any() and self._finals_wanted else observation
        mask = self._mask(infos)
        return self._step(observation, final, reward, terminated, truncated, np.ones_like(over), over, infos, mask)

    def _take_disabled(
        self, observation: Any, reward: np.ndarray, terminated: np.ndarray, truncated: np.ndarray, infos: dict[str, Any]
    ) -> Step:
        over, final, mask = terminated | truncated, observation, self._mask(infos)
        if over.any():
            # Gymnasium takes the mask out of the options it is given, and may keep the array.
            asked = over.copy() if self._tensor is None else like(over, self._tensor)
            first, reset_infos = self._vector.reset(options={"reset_mask": asked})
            first = self._owned(first)
            self._check("first observations", first, (self.count,))
            observation = replace_rows(final, over, first)
            first_mask = self._mask(reset_infos)
            if mask is not None and first_mask is not None:
                mask = np.where(over[:, None], first_mask, mask)
        return self._step(observation, final, reward, terminated, truncated, np.ones_like(over), over, infos, mask)

    def _step(
        self,
        observation: Any,
        final: Any,
        reward: np.ndarray,
        terminated: np.ndarray,
        truncated: np.ndarray,
        valid: np.ndarray,
        started: np.ndarray,
        infos: dict[str, Any],
        mask: np.ndarray | None,
    ) -> Step:
        raw = _reported(infos, RAW_REWARD, reward)
        paid = np.where(valid, self._recorder.take(raw), 0.0) if self._recorder.recording else raw
        return Step(
            observation=observation,
            final_observation=final,
            reward=reward,
            terminated=terminated,
            truncated=truncated,
            valid=valid,
            started=started,
            raw_reward=raw,
            task_reward=_reported(infos, TASK_REWARD, paid),
            episode_over=_reported(infos, EPISODE_OVER, terminated | truncated),
            mask=mask,
            said=from_infos(infos, self.count),
        )

    def _owned(self, observation: Any) -> Any:
        kept = self._kept.take(observation)
        if self._tensor is not None:
            return owned(kept)
        return kept if self._gives_copies else map_leaves(np.array, kept)

    def _with_final(self, observation: Any, infos: Mapping[str, Any], over: np.ndarray) -> Any:
        finals = infos.get(
            "final_obs", infos.get("final_observation")
        )  # the second is Gymnasium 0.29's and ManiSkill's
        if finals is None:
            raise hidden_end(self.name, HIDES, SHOW)
        if not (isinstance(finals, np.ndarray) and finals.dtype == object):
            finals = self._owned(finals)
            self._check("final observations", finals, (self.count,))
            return replace_rows(observation, over, finals)
        final = map_leaves(np.array, observation)
        for index in np.flatnonzero(over):
            reached = self._kept.take(finals[index])
            self._check("a final observation", reached)
            map_leaves(lambda leaf, row, i=index: leaf.__setitem__(i, row), final, reached)
        return final

    def _check(self, what: str, observation: Any, batch: tuple[int, ...] = ()) -> None:
        # Before it is copied into rows of the promised shape and type, which would bend it to them.
        problem = space_problem(self.observation_space, observation, batch)
        if problem is not None:
            raise UserError(
                f"{self.name} returned {what} {problem} at its step {self._steps}: make it return what its observation "
                "space says"
            )

    def _mask(self, infos: Mapping[str, Any]) -> np.ndarray | None:
        """The mask of every row; a row that reports none may do everything."""
        infos = {} if infos is None else infos  # of a reset
        if not isinstance(infos, Mapping):
            raise UserError(
                f"{self.name} returned a {type(infos).__name__} as infos at its step {self._steps}: make it return a "
                "dict, which may be empty"
            )
        reported = infos.get(ACTION_MASK)
        self._masked = self._masked or reported is not None
        if not self._masked:
            return None
        mask = np.ones((self.count, self._masks.size), dtype=bool)
        given = np.asarray(infos.get(f"_{ACTION_MASK}", np.full(self.count, reported is not None)))
        try:
            for index in np.flatnonzero(given):
                mask[index] = self._masks.read(take_row(reported, int(index)))
        except (ValueError, LookupError, TypeError) as error:
            raise UserError(
                f"{self.name} returned in infos['action_mask'] at its step {self._steps} {error}; one such mask is due "
                f"for each of its {self.count} environments"
            ) from None
        return mask


def vectorise(
    factories: Sequence[Callable[[], gymnasium.Env]],
    name: str,
    keys: ObservationKeys,
    *,
    subprocess: bool = False,
    timeout: float = 60.0,
    lent: bool = False,
) -> GymnasiumEnvironments:
    """Single environments as a batch, stepped in turn in this process or each in its own.

    Args:
        factories: What makes each environment.
        name: What the user calls the task.
        keys: What of their observations is kept.
        subprocess: Give each environment a process.
        timeout: Seconds that a subprocess may take for one call.
        lent: Whether the environments are somebody else's, and are left open.

    Raises:
        UserError: When an environment cannot be made.
    """
    own = RemoteEnvironment if subprocess else ReportingEnvironment
    wrapper = LentEnvironment if lent else own

    notes: dict[str, None] = {}  # of the first one, which is always made in this process too

    def reporting(factory: Callable[[], gymnasium.Env], index: int) -> Callable[[], gymnasium.Env]:
        def made() -> gymnasium.Env:
            env = wrapper(factory(), name, index, keys)
            notes.update(dict.fromkeys(env.sentences))
            return env

        return made

    reporters = [reporting(factory, index) for index, factory in enumerate(factories)]
    try:
        vector: Any
        if subprocess:
            vector = WatchedSubprocesses(reporters, name, timeout)
        else:
            vector = SyncVectorEnv(reporters, autoreset_mode=AutoresetMode.SAME_STEP)
        batch = GymnasiumEnvironments(vector, name, "subprocess" if subprocess else "gymnasium")
        batch.notes = tuple(notes)
        return batch
    except (RuntimeError, ValueError, TypeError) as error:  # their spaces differ, or cannot be batched
        raise UserError(f"{name} cannot be made a batch of {len(factories)}: {error}") from error


def _autoreset_mode(vector: Any, name: str) -> AutoresetMode:
    metadata = getattr(vector, "metadata", None)
    mode = metadata.get("autoreset_mode") if isinstance(metadata, Mapping) else None
    try:
        return AutoresetMode(mode)
    except ValueError as error:
        known = ", ".join(f"AutoresetMode.{mode.name}" for mode in AutoresetMode)
        raise UserError(
            f"{name} does not say how it resets (its metadata['autoreset_mode'] is {mode!r}), and a guess would learn "
            f"from wrong transitions: set it to one of {known}"
        ) from error


def _reported(infos: Mapping[str, Any], key: str, default: np.ndarray) -> np.ndarray:
    """`default`, with what the environments report under `key`; a finished row reports it in its final info."""
    values = default
    for source in (infos, infos.get("final_info", {})):
        if key in source:
            values = np.where(source[f"_{key}"], source[key], values).astype(default.dtype)
    return values
