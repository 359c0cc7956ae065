"""A trained policy as numpy in, numpy out."""

from collections.abc import Callable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from proximo.control.environments.wrappers import statistics
from proximo.control.models.policy import ControlPolicy
from proximo.control.spaces.images import as_frame, stack_axis
from proximo.control.spaces.leaves import Path as Leaf
from proximo.control.spaces.leaves import place
from proximo.control.spaces.masks import MaskReader, closed_columns
from proximo.control.spaces.numbers import fits_float32
from proximo.control.spaces.observations import Part
from proximo.core.distributions import Distribution
from proximo.errors import MALFORMED, UserError
from proximo.runs.console.streams import say
from proximo.runs.storage.checkpoint import latest_checkpoint, load_checkpoint, under
from proximo.runs.storage.folder import RunFolder


class LoadedPolicy:
    """Takes observations as the environment gives them and returns actions as it takes them.

    Normaliser, networks, action scaling and memory are inside; nothing else is needed.
    """

    def __init__(self, policy: ControlPolicy) -> None:
        self.policy = policy.eval()
        choices = [(part.path, part.choices) for part in policy.actions.parts if part.choices]
        self._masks = MaskReader(choices, "the policy's action")
        self._memory: Tensor | None = None
        self._frames: dict[Leaf, list[np.ndarray]] = {}
        self._unseen: set[str] = set()
        """Parts of the critic with a history, of which an observation that was acted on has had none."""
        self._generator = torch.Generator().manual_seed(0)

    def reset(self) -> None:
        """Forget the past: call it when an episode starts (it matters with a memory or a frame stack)."""
        self._memory, self._frames, self._unseen = None, {}, set()

    def carry_into(self, env: Any) -> None:
        """Put into an environment what its wrappers had learnt in training, and let them learn no more.

        Args:
            env: made like those of the training; `NormalizeObservation` is such a wrapper.

        Raises:
            UserError: its wrappers are not those of the training.
        """
        if self.policy.wrappers.keys() - statistics.read(env).keys():
            needed = ", ".join(sorted({name.split(".")[1] for name in self.policy.wrappers}))
            raise UserError(
                f"this environment is not wrapped as in training, where {needed} learnt: make it the same way"
            )
        statistics.write(env, self.policy.wrappers, 0, fixed=True)

    def seed(self, seed: int) -> None:
        """Fix the noise of sampled actions; any whole number."""
        self._generator.manual_seed(seed if -(2**63) <= seed < 2**64 else seed % 2**64)

    def act(self, observation: Any, *, deterministic: bool = True, mask: Any = None) -> Any:
        """The action for one observation, or for a batch of them.

        Args:
            observation: as the environment's `reset` and `step` give it; or a batch, every leaf with a leading axis
                `[N]`. With a frame stack, one frame: the last ones are remembered here.
            deterministic: the most probable action instead of a sample.
            mask: allowed choices, bool `[K]` or `[N, K]`, or as the environment gives them in `info`, where it does so.

        Returns:
            An action of the environment's action space (or a batch of them).

        Raises:
            UserError: the observation or the mask is not what the policy was trained on, or can not be acted on.
        """
        inputs, frames, single = self._read(observation, mask)
        memory = self._memory_for(inputs)
        action = self.policy.act(inputs, memory, generator=self._generator, deterministic=deterministic)
        self._memory, self._frames = action.memory, frames | self._frames_of_critic(observation)
        commands = self.policy.actions.to_environment(action.action.numpy())
        return _map(lambda x: x[0], commands) if single else commands

    def distribution(self, observation: Any, *, mask: Any = None) -> Distribution:
        """Over the stored actions (unclipped, unsquashed) for an observation or a batch of them, with a leading axis.

        It moves no memory, as `value`. Arguments and errors as `act`.
        """
        inputs = self._read(observation, mask)[0]
        return self.policy.step_distribution(inputs, self._memory_for(inputs))

    def value(self, observation: Any) -> np.ndarray:
        """The critic's estimate for an observation, or `[N]` for a batch, in units of (scaled) return.

        It moves no memory: with a memory or a frame stack ask before `act`, which remembers the observation. A critic
        with `observations.critic` of its own needs these parts too; where they have a history, in each `act` too.

        Raises:
            UserError: as `act`; or the critic's history is not known.
        """
        if self._unseen:
            raise UserError(
                f"the critic sees the last observations of {', '.join(sorted(self._unseen))}, and act was given some "
                "without: give act whole observations, and call reset where an episode starts"
            )
        also = self._parts_of_critic
        batch, single = self._batch(observation, also)
        joined = _joined(batch, self._frames_with(batch, also))
        encoded = self.policy.observations.encode(joined, self.policy.exact_observations)
        encoded |= self.policy.encode_critic(joined, self.policy.exact_observations)
        inputs = {name: torch.from_numpy(np.ascontiguousarray(x)) for name, x in encoded.items()}
        values = self.policy.values.from_units(self.policy.value(inputs, self._memory_for(inputs))).numpy()
        return values[0] if single else values

    def _read(self, observation: Any, mask: Any) -> tuple[dict[str, Tensor], dict[Leaf, list[np.ndarray]], bool]:
        """What the policy reads, the last frames, and whether it is of one observation."""
        batch, single = self._batch(observation)
        frames = self._frames_with(batch)
        encoded = self.policy.observations.encode(_joined(batch, frames), self.policy.exact_observations)
        self._add_mask(encoded, mask, single)
        return {name: torch.from_numpy(np.ascontiguousarray(x)) for name, x in encoded.items()}, frames, single

    @property
    def _parts_of_critic(self) -> tuple[Part, ...]:
        own = self.policy.critic_observations
        return () if own is None else own.parts

    def _frames_of_critic(self, observation: Any) -> dict[Leaf, list[np.ndarray]]:
        """As `_frames_with`, of the critic's parts that an observation has; whoever only acts may leave them out."""
        found: dict[Leaf, list[np.ndarray]] = {}
        for part in self._parts_of_critic:
            if self._depth(part) == 1:
                continue
            try:
                found |= self._frames_with(self._batch(observation, [part])[0], [part])
            except UserError:
                self._unseen.add(part.key or "the observation")
        return found

    def _memory_for(self, inputs: Mapping[str, Tensor]) -> Tensor | None:
        """The memory of the batch before; a fresh one for a batch of another size."""
        count = len(next(iter(inputs.values())))
        fits = self._memory is not None and len(self._memory) == count
        return self._memory if fits else self.policy.initial_memory(count)

    def _batch(self, observation: Any, also: Sequence[Part] = ()) -> tuple[Any, bool]:
        """The observation with a leading axis, and whether it had none; `also` holds parts of the critic."""
        parts = (*self.policy.observations.parts, *also)
        _refuse_answer(parts, observation)
        extra = set()
        for part in parts:
            leaf = _leaf(part, observation)
            extra.add(_extra_axes(part, leaf.shape, self._shape_of(part)))
            _require_numbers(part, leaf)
        if len(extra) > 1:
            raise UserError(
                "some parts of the observation have a leading batch axis and others have none: give all one"
            )
        single = extra == {0}
        return _map(lambda x: _array(x)[None] if single else _array(x), observation), single

    def _shape_of(self, part: Part) -> tuple[int, ...]:
        """Of one observation, or one frame, as the environment gives it."""
        k = self._depth(part)
        if k == 1:
            return part.env_shape
        return part.frame or (part.shape[0] // k,)

    def _depth(self, part: Part) -> int:
        """How many observations of a part are seen at once."""
        own = int(np.prod(part.shape)) // int(np.prod(part.frame)) if part.frame else 1
        return self.policy.frame_stack if self.policy.frame_stack > 1 else own

    def _frames_with(self, batch: Any, also: Sequence[Part] = ()) -> dict[Leaf, list[np.ndarray]]:
        """The last frames of each part that has any, this one among them; an episode starts with copies of one."""
        found: dict[Leaf, list[np.ndarray]] = {}
        for part in (*self.policy.observations.parts, *also):
            if (k := self._depth(part)) == 1:
                continue
            frame = as_frame(_leaf(part, batch), batch=1)
            known = self._frames.get(part.path, [])
            found[part.path] = [*(known if known and known[-1].shape == frame.shape else [frame] * k)[1:], frame]
        return found

    def _add_mask(self, encoded: dict[str, np.ndarray], mask: Any, single: bool) -> None:
        """Put the mask beside the observation, if there is one, and refuse one that can not be obeyed."""
        if mask is None and self.policy.masked and "mask" not in encoded:
            raise UserError("this policy was trained with action masks: give mask=info['action_mask']")
        if mask is not None:
            count = len(next(iter(encoded.values())))
            rows = [mask] if single else list(mask) if np.iterable(mask) else []
            if len(rows) != count or (isinstance(mask, Mapping) and not single):
                raise UserError(
                    f"the masks of {count} observations must have {(count, self._masks.size)}, or be a list"
                )
            try:
                encoded["mask"] = np.stack([self._masks.read(row) for row in rows])
            except ValueError as error:
                raise UserError(f"given is {error}") from None
        if "mask" in encoded and closed_columns(encoded["mask"], self.policy.actions.choices).any():
            raise UserError(
                "the mask leaves nothing to choose: reset the environment if its episode is over, or mend its mask"
            )


def _joined(batch: Any, frames: Mapping[Leaf, list[np.ndarray]]) -> Any:
    """The batch with each part that has frames as these joined."""
    for path, known in frames.items():
        shape = known[-1].shape[1:]
        joined = np.concatenate(known, stack_axis(shape))
        if not path:
            return joined
        batch = {**batch, path[0]: joined}  # parts with a history are a Dict's own
    return batch


def _refuse_answer(parts: Sequence[Part], observation: Any) -> None:
    """See that it is not all of what a reset (observation, info) or a step returned."""
    if (
        not isinstance(observation, tuple | list)
        or len(observation) not in (2, 4, 5)
        or not isinstance(observation[-1], dict)
    ):
        return
    last = len(observation) - 1
    if not any(part.path[:1] == (last,) and isinstance((*part.path, 0)[1], str) for part in parts):
        call = "reset" if last == 1 else "step"
        raise UserError(f"this is all of what {call} returned, info and all: give the observation only, its first part")


def _leaf(part: Part, observation: Any) -> np.ndarray:
    leaf = observation
    try:
        for key in part.path:
            leaf = leaf[key]
    except (KeyError, IndexError, TypeError) as error:
        raise UserError(
            f"the observation has no part{place(part.path)}, which the policy was trained on: give it the whole one"
        ) from error
    try:
        array = _array(leaf)
    except ValueError:  # lists of different lengths
        array = np.empty((), object)
    if array.dtype.kind not in "biuf":
        raise UserError(
            f"the observation{place(part.path)} is a {type(leaf).__name__}, and the policy reads numbers: give it what "
            "the environment's reset and step give as observation"
        )
    return array


def _extra_axes(part: Part, shape: tuple[int, ...], expected: tuple[int, ...]) -> int:
    """0 for one observation, 1 for a batch."""
    extra = len(shape) - len(expected)
    if extra not in (0, 1) or shape[extra:] != expected:
        raise UserError(
            f"the policy was trained on observations of shape {expected}{place(part.path)}, and got {shape}: give it "
            "one of those, or a batch of them"
        )
    return extra


def _require_numbers(part: Part, leaf: np.ndarray) -> None:
    """Refuse NaN, infinities, and what becomes one in float32."""
    if leaf.dtype.kind == "f" and not (fine := fits_float32(leaf)).all():
        where = np.argwhere(~fine)[0]
        entry = f" [{', '.join(map(str, where))}]" if len(where) else ""
        raise UserError(
            f"the observation{place(part.path)}{entry} is {leaf[tuple(where)]}, which no policy can act on: mend what "
            "measures it, or reset the environment"
        )


def _array(leaf: Any) -> np.ndarray:
    """An array, a list or a tensor on any device, with a gradient or not, as an array."""
    return np.asarray(leaf.detach().cpu() if isinstance(leaf, Tensor) else leaf)


def _map(function: Any, tree: Any) -> Any:
    if isinstance(tree, Mapping):
        return {key: _map(function, inner) for key, inner in tree.items()}
    if isinstance(tree, tuple):
        return tuple(_map(function, inner) for inner in tree)
    return function(tree)


def tell(text: str) -> None:
    """A sentence for the user, which is no result."""
    say(f"proximo: {text}")


def load_policy(folder: Path, checkpoint: str = "final", warn: Callable[[str], None] = tell) -> ControlPolicy:
    """The policy of a run, on the CPU; arguments and errors as `read_checkpoint`."""
    return policy_from(*read_checkpoint(folder, checkpoint, warn))


def read_checkpoint(
    folder: Path, checkpoint: str = "final", warn: Callable[[str], None] = tell
) -> tuple[dict[str, Tensor], dict[str, Any], str]:
    """A run's checkpoint: its tensors, the rest of it, and the prefix of the policy that was asked for.

    Args:
        folder: of the run.
        checkpoint: `final`, `best`, or the name of a numbered one; a run that has not ended has no final one yet, and
            its latest is taken.
        warn: told a sentence about every broken checkpoint that is passed over.

    Raises:
        UserError: there is no such run or checkpoint, or it is damaged.
    """
    checkpoints = folder / "checkpoints"
    if not checkpoints.is_dir():
        raise UserError(f"{folder} holds no run (no checkpoints folder): check the path")
    path: Path | None = checkpoints / checkpoint
    if checkpoint in ("final", "best") and not (checkpoints / checkpoint).exists():
        path = latest_checkpoint(checkpoints, warn=warn)
    if path is None:
        raise UserError(f"{folder} has no checkpoint yet: train for longer, or wait for the first one")
    tensors, state = load_checkpoint(path)
    if "policy" not in state:
        raise UserError(
            f"{path} is not a checkpoint of a control run: `proximo rlhf chat` talks to a language model, and its "
            "policy folder is loaded by transformers"
        )
    return tensors, state, "best" if checkpoint == "best" and path.name != "best" else "policy"


def require_final(folder: RunFolder) -> None:
    """See that the last policy of a finished run is whole.

    Raises:
        UserError: it is damaged.
    """
    try:
        load_checkpoint(folder.checkpoints / "final")
    except UserError as error:
        raise UserError(
            f"the run in {folder.path} is finished, but {error}, or delete {folder.results} and give the same command: "
            "it makes the last policy and its results anew from the last numbered checkpoint"
        ) from error


def policy_from(tensors: Mapping[str, Tensor], state: Mapping[str, Any], prefix: str = "policy") -> ControlPolicy:
    """The policy that lies in a checkpoint under `prefix` (`policy`, or `best` for the best so far)."""
    weights = under(f"{prefix}/", tensors)
    if not weights and prefix == "best":
        return policy_from(tensors, state)
    try:
        policy = ControlPolicy.build(state["policy"])
        policy.load_state_dict(weights)
        learnt = f"wrappers/{prefix}/"
        policy.wrappers = {
            name.removeprefix(learnt): x.numpy() for name, x in tensors.items() if name.startswith(learnt)
        }
    except MALFORMED as error:
        raise UserError(
            f"the weights in this checkpoint do not fit its description ({error}); it was altered"
        ) from error
    return policy


def load(run: str | PathLike[str], checkpoint: str = "final") -> LoadedPolicy:
    """The trained policy of a run: `proximo.load("runs/cheetah").act(observation)`. Arguments as `load_policy`."""
    return LoadedPolicy(load_policy(Path(run), checkpoint))
