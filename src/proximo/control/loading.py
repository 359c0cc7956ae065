"""A trained policy as numpy in, numpy out."""

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from proximo.control.observations import Part
from proximo.control.policy import ControlPolicy
from proximo.control.spaces import place
from proximo.runs.checkpoint import latest_checkpoint, load_checkpoint
from proximo.runs.errors import MALFORMED, UserError
from proximo.runs.folder import RunFolder


class LoadedPolicy:
    """Takes observations as the environment gives them and returns actions as it takes them.

    Normaliser, networks, action scaling and memory are inside; nothing else is needed.
    """

    def __init__(self, policy: ControlPolicy) -> None:
        self.policy = policy.eval()
        self._memory: Tensor | None = None
        self._frames: list[np.ndarray] = []
        self._generator = torch.Generator().manual_seed(0)

    def reset(self) -> None:
        """Forget the past: call it when an episode starts (it matters with a memory or a frame stack)."""
        self._memory, self._frames = None, []

    def seed(self, seed: int) -> None:
        """Fix the noise of sampled actions."""
        self._generator.manual_seed(seed)

    def act(self, observation: Any, *, deterministic: bool = True, mask: np.ndarray | None = None) -> Any:
        """The action for one observation, or for a batch of them.

        Args:
            observation: as the environment's `reset` and `step` give it; or a batch, every leaf with a leading axis
                `[N]`. With a frame stack, one frame: the last ones are remembered here.
            deterministic: the most probable action instead of a sample.
            mask: allowed choices, bool `[K]` or `[N, K]`, where the environment gives them in `info`.

        Returns:
            An action of the environment's action space (or a batch of them).

        Raises:
            ValueError: the observation does not have the shape the policy was trained on.
        """
        if self.policy.frame_stack > 1:
            observation = self._stacked(np.asarray(observation))
        single = self._is_single(observation)
        encoded = self.policy.observations.encode(
            _map(lambda x: np.asarray(x)[None], observation) if single else observation
        )
        if mask is not None:
            encoded["mask"] = np.atleast_2d(np.asarray(mask, bool))
        inputs = {name: torch.from_numpy(np.ascontiguousarray(x)) for name, x in encoded.items()}
        memory = self._memory_for(inputs)
        action = self.policy.act(inputs, memory, generator=self._generator, deterministic=deterministic)
        self._memory = action.memory
        commands = self.policy.actions.to_environment(action.action.numpy())
        return _map(lambda x: x[0], commands) if single else commands

    def value(self, observation: Any) -> np.ndarray:
        """The critic's estimate for a batch of observations, `[N]`, in units of (scaled) return; moves no memory."""
        inputs = {name: torch.from_numpy(x) for name, x in self.policy.observations.encode(observation).items()}
        return self.policy.values.from_units(self.policy.value(inputs, self._memory_for(inputs))).numpy()

    def _memory_for(self, inputs: Mapping[str, Tensor]) -> Tensor | None:
        """The memory of the batch before; a fresh one for a batch of another size."""
        count = len(next(iter(inputs.values())))
        fits = self._memory is not None and len(self._memory) == count
        return self._memory if fits else self.policy.initial_memory(count)

    def _stacked(self, frame: np.ndarray) -> np.ndarray:
        """The last frames joined as in training; an episode starts with copies of its first."""
        part, k = self.policy.observations.parts[0], self.policy.frame_stack
        axis = -3 if part.layout == "chw" else -1
        if part.layout == "chw" and part.shape[0] == k and frame.shape[-3:-2] != (1,):
            frame = np.expand_dims(frame, -3)  # planes [H, W] are stacked as channels
        if self._frames and self._frames[-1].shape != frame.shape:
            self._frames = []
        self._frames = [*(self._frames or [frame] * k)[1:], frame]
        return np.concatenate(self._frames, axis)

    def _is_single(self, observation: Any) -> bool:
        extra = {_extra_axes(part, observation) for part in self.policy.observations.parts}
        if len(extra) > 1:
            raise ValueError("some parts of the observation have a leading batch axis and others have none")
        return extra == {0}


def _extra_axes(part: Part, observation: Any) -> int:
    """0 for one observation, 1 for a batch."""
    expected, leaf = part.env_shape, observation
    try:
        for key in part.path:
            leaf = leaf[key]
    except (KeyError, IndexError, TypeError) as error:
        raise ValueError(f"the observation has no part{place(part.path)}, which the policy was trained on") from error
    shape = np.shape(leaf)
    extra = len(shape) - len(expected)
    if extra not in (0, 1) or shape[extra:] != expected:
        raise ValueError(
            f"the policy was trained on observations of shape {expected}{place(part.path)}, and got {shape}"
        )
    return extra


def _map(function: Any, tree: Any) -> Any:
    if isinstance(tree, Mapping):
        return {key: _map(function, inner) for key, inner in tree.items()}
    if isinstance(tree, tuple):
        return tuple(_map(function, inner) for inner in tree)
    return function(tree)


def tell(text: str) -> None:
    """A sentence for the user, which is no result."""
    print(f"proximo: {text}", file=sys.stderr)


def load_policy(folder: Path, checkpoint: str = "final", warn: Callable[[str], None] = tell) -> ControlPolicy:
    """The policy of a run, on the CPU.

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
        raise UserError(f"{path} is not a checkpoint of a control run: check the path")
    return policy_from(tensors, state, "best" if checkpoint == "best" and path.name != "best" else "policy")


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
    weights = {name.removeprefix(f"{prefix}/"): x for name, x in tensors.items() if name.startswith(f"{prefix}/")}
    if not weights and prefix == "best":
        return policy_from(tensors, state)
    try:
        policy = ControlPolicy.build(state["policy"])
        policy.load_state_dict(weights)
    except MALFORMED as error:
        raise UserError(
            f"the weights in this checkpoint do not fit its description ({error}); it was altered"
        ) from error
    return policy


def load(run: str | Path, checkpoint: str = "final") -> LoadedPolicy:
    """The trained policy of a run: `proximo.load("runs/cheetah").act(observation)`. Arguments as `load_policy`."""
    return LoadedPolicy(load_policy(Path(run), checkpoint))
