"""Whether a control run goes on bit for bit, and if not, whether its environments are to blame."""

from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from proximo.control.config import TrainConfig
from proximo.control.distillation.training import training_of
from proximo.control.environments import Source, make_environments
from proximo.control.environments.base import VectorEnvironment
from proximo.control.run import run_training
from proximo.runs.config.toml import from_mapping, read_toml
from proximo.runs.resume_check import Verification, in_new_processes, verify
from proximo.runs.session.opening import Call


def verify_control(config: TrainConfig, iterations: int, source: Source | None = None) -> Verification:
    """Train with `config` for twice as many iterations: through, stopped half-way, and killed.

    Each part is trained in a new process, but for an environment that is given as a callable.

    Args:
        config: of the run.
        iterations: before the stop, and as many after it.
        source: the environment, or its maker, where it is not `config.environment`.

    Raises:
        UserError: the run can not be trained at all.
    """
    source = config.environment if source is None else source
    size = config.rollout_size
    end = 2 * iterations * size
    short = replace(
        config,
        steps=max(config.steps, end + size),  # the schedules' pace stays, and no evaluation comes at the end
        # Between the stop and the end, so that the stop is at no reset point.
        checkpoint_every=(3 * iterations * size) // 2,
        restart_every=1,  # there, so that a reset that leaves something behind shows
        keep=2,
    )

    def train_here(folder: Path, stop_at: int) -> None:
        run_training(replace(short, run=str(folder)), source, "quiet", Call(stop_at))

    apart = isinstance(source, str)
    train: Callable[[Path, int], Any] = train_here
    if isinstance(source, str):
        train = in_new_processes(f"{__name__}:train_part", replace(short, environment=source))
    middle = iterations * size
    return verify(train, middle=middle, end=end, causes=lambda: _causes(short, source), new_processes=apart)


def train_part(file: str, folder: str, stop_at: str) -> None:
    """What a new process does: train in `folder` with the settings of `file`, up to `stop_at` steps."""
    config = from_mapping(TrainConfig, read_toml(Path(file)), where=file)
    run_training(replace(config, run=folder), mode="quiet", call=Call(int(stop_at)))


def _causes(config: TrainConfig, source: Source) -> list[str]:
    return [x for x in (_not_deterministic(config, source), _device(config)) if x]


def _device(config: TrainConfig) -> str | None:
    if config.device == "cpu" or not torch.cuda.is_available():
        return None
    return "a GPU adds in no fixed order unless told to: set CUBLAS_WORKSPACE_CONFIG=:4096:8, or train on device cpu"


def _not_deterministic(config: TrainConfig, source: Source) -> str | None:
    """Two sets of environments with the same seeds and a policy that acts the same, and the first set once more."""

    def make() -> VectorEnvironment:
        return make_environments(
            source,
            config.environments,
            backend=config.backend,
            options=config.options,
            timeout=config.environment_timeout,
            frame_stack=config.frame_stack,
            action_repeat=config.action_repeat,
            action_delay=config.action_delay,
            history=config.history,
            mask_key=config.mask_key,
            observation_keys=config.visible_in_training,
        )

    with closing(make()) as one, closing(make()) as other:
        first, second, repeated = (_rollout(config, environments) for environments in (one, other, one))
    if difference := _difference(first, second):
        return f"{config.environment} does not follow from its seed and actions: {difference}"
    if difference := _difference(first, repeated):
        return f"a reset of {config.environment} with a seed leaves something of the episodes before: {difference}"
    return None


def _rollout(config: TrainConfig, environments: VectorEnvironment) -> dict[str, np.ndarray]:
    """What the environments show an untrained policy, each `[T, N, ...]`, in the order of a step."""
    training = training_of(config, environments)
    training.restart()
    rollout = training.collector.collect()
    seen = {f"observation ({name})": x.cpu().numpy() for name, x in {**rollout.inputs, **rollout.beside}.items()}
    seen |= {"reward": rollout.reward, "terminated": rollout.terminated, "truncated": rollout.truncated}
    return {name: np.array(x) for name, x in seen.items()}


def _difference(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> str | None:
    """The first difference; what comes after it follows from it."""
    found = []
    for name, x in one.items():
        rows = (x != other[name]).reshape(*x.shape[:2], -1).any(2)
        if rows.any():
            step, index = np.argwhere(rows)[0]
            found.append((int(step), name, int(index)))
    if not found:
        return None
    step, name, index = min(found, key=lambda difference: difference[0])
    return f"{name} of environment {index} differs at step {step} of a rollout"
