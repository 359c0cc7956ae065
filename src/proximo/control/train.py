"""Training from start to result: folder, resume, progress, signals, checkpoints, evaluation."""

import json
import statistics
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from threadpoolctl import threadpool_limits

from proximo.control.configuration import TrainConfig
from proximo.control.environments import make_environments
from proximo.control.environments.base import VectorEnvironment
from proximo.control.evaluation import Evaluation, evaluate, evaluation_environments
from proximo.control.loading import policy_from
from proximo.control.observations import ObservationSpec
from proximo.control.presets import configure
from proximo.control.results import read_results
from proximo.control.training import Training
from proximo.core.invariants import InvariantError
from proximo.runs.checkpoint import latest_checkpoint, load_checkpoint, save_checkpoint, step_name
from proximo.runs.configuration import from_mapping, refuse_changes, to_toml
from proximo.runs.console import Mode, Progress
from proximo.runs.errors import UserError
from proximo.runs.files import write_atomically
from proximo.runs.folder import RunFolder
from proximo.runs.metrics import MetricsWriter
from proximo.runs.recorder import Recorder
from proximo.runs.signals import StopRequest
from proximo.runs.system import resident_memory

Source = str | Callable[..., Any]


@dataclass(frozen=True)
class Run:
    """What a training run came to."""

    path: Path
    config: TrainConfig
    results: Mapping[str, Any]
    """`last_100_training_return`, `final_deterministic`, `final_sampled`, `best_checkpoint`, `steps`, `seconds`..."""
    stopped: str | None = None
    """The signal that ended it early; the same command goes on."""


def train(environment: Source, *, preset: str = "tuned", progress: Mode = "auto", **settings: Any) -> Run:
    """Train a policy.

    Args:
        environment: a task of EnvPool or Gymnasium, `module:function`, or a callable that makes an environment.
        preset: tuned, paper, or the path of a TOML file.
        progress: live, plain, quiet, or auto.
        settings: fields of `TrainConfig` (`steps=100_000`, `seed=0`, `run="runs/mine"`, `update={"clip": 0.1}`).

    Returns:
        The run: its folder and its results.

    Raises:
        UserError: something you can mend; the message says what, where and how.
    """
    name = environment if isinstance(environment, str) else _name_of(environment)
    base, _ = configure(name, preset)
    if isinstance(settings.get("run"), Path):
        settings["run"] = str(settings["run"])
    config = from_mapping(TrainConfig, settings, where="the arguments of proximo.train", base=base)
    return run_training(config, environment, progress)


def run_training(config: TrainConfig, source: Source | None = None, mode: Mode = "auto") -> Run:
    """Train as `config` says: start, or go on where the folder's last checkpoint is.

    Args:
        config: complete.
        source: the environment's maker where `config.environment` is only its name.
        mode: how progress is shown.

    Raises:
        UserError: something the user can mend.
    """
    started = time.monotonic()
    source = source or config.environment
    folder = RunFolder(config.run or default_run(config))
    config = replace(config, run=str(folder.path))
    resumed = folder.exists
    if resumed:
        refuse_changes(folder.config, config, "environment")
        if finished := read_results(folder.path):
            return Run(folder.path, config, finished)
    with ExitStack() as stack:
        # Made before the folder: an environment that can not be made leaves nothing behind.
        environments = make_environments(
            source,
            config.environments,
            backend=config.backend,
            options=config.options,
            frame_stack=config.frame_stack,
        )
        stack.callback(environments.close)
        _limit_threads(stack, environments, config)
        training = Training(config, environments)
        stack.enter_context(folder.open() if resumed else folder.create(to_toml(config)))
        metrics = stack.enter_context(MetricsWriter(folder.path))
        if not (resumed and _resume(training, folder, metrics)):
            training.start()
        title = f"{config.environment} · {config.preset} · seed {config.seed} · {environments.backend}"
        progress = stack.enter_context(
            Progress(title, config.steps, mode=mode, folder=folder.path, start=training.progress.steps)
        )
        progress.message(f"device {training.device.type}: {training.why_device}")
        before = training.progress.steps
        with StopRequest() as stop:
            done = _iterate(training, folder, Recorder(metrics, progress), stop)
        if not done:
            return _stopped(training, folder, config, stop, progress)
        results = _finish(training, folder, source, started, before)
    return Run(folder.path, config, results)


def default_run(config: TrainConfig) -> str:
    """`runs/ENVIRONMENT-PRESET-SEED`."""
    parts = (config.environment, Path(config.preset).stem, config.seed)
    return "runs/" + "-".join(str(part).replace("/", "_").replace(":", "_") for part in parts)


def _iterate(training: Training, folder: RunFolder, recorder: Recorder, stop: StopRequest) -> bool:
    """Iterate to the last step; False when a signal asks to stop before."""
    config = training.config
    # At least once: the rollout that the normalisers start from counts, and may be all there is of a short run.
    while training.progress.steps < config.steps or not training.progress.iterations:
        before = training.progress.steps
        try:
            values = training.iterate()
        except InvariantError as error:
            recorder.failure(before, error)
            raise UserError(
                f"{error} (iteration {training.progress.iterations} of {folder.path}, {before:,} steps)"
            ) from error
        steps = training.progress.steps
        values |= {
            "return": training.mean_return,
            "episodes": training.progress.episodes,
            "memory_mb": resident_memory(),
        }
        if training.lengths:
            values["episode_length"] = sum(training.lengths) / len(training.lengths)
            values["episode_length_std"] = statistics.pstdev(training.lengths)
        recorder.iteration(steps, values)
        if stop.requested:
            training.restart()
            save(training, folder, step_name(steps))
            return False
        if steps // config.checkpoint_every > before // config.checkpoint_every and steps < config.steps:
            # A checkpoint is a reset point: environments that can not give their state start anew here in every
            # run, resumed or not, so that both are the same run.
            training.restart()
            save(training, folder, step_name(steps))
    return True


def save(training: Training, folder: RunFolder, name: str) -> None:
    """Write a checkpoint of everything."""
    tensors, state = training.state()
    save_checkpoint(folder.checkpoints, name, tensors, state, keep=training.config.keep)


def _finish(training: Training, folder: RunFolder, source: Source, started: float, before: int) -> dict[str, Any]:
    """Save the last and the best policy, evaluate both, and write the results.

    The numbered checkpoint is what the same command goes on from if the evaluation is interrupted.
    """
    for name in (step_name(training.progress.steps), "final"):
        save(training, folder, name)
    config, policy = training.config, training.policy
    tensors, state = training.state()
    best = policy_from(tensors, state, "best")
    save_checkpoint(
        folder.checkpoints,
        "best",
        {f"policy/{name}": x for name, x in best.state_dict().items()},
        {"policy": best.describe(), "training_return": state["best_return"]},
    )
    seconds = time.monotonic() - started
    final, sampled, chosen = evaluate_all(config, source, [(policy, True), (policy, False), (best, True)])
    results = {
        "last_100_training_return": training.mean_return,
        "final_deterministic": final.mean,
        "final_deterministic_std": final.std,
        "final_sampled": sampled.mean,
        "best_checkpoint": chosen.mean,
        "best_checkpoint_std": chosen.std,
        "episodes": config.episodes,
        "steps": training.progress.steps,
        "seconds": seconds,
        "steps_per_second": (training.progress.steps - before) / seconds,
        "unfinished_episodes": final.unfinished,
    }
    write_atomically(folder.path / "results.json", json.dumps(results, indent=1).encode())
    return results


def evaluate_all(config: TrainConfig, source: Source, policies: list[tuple[Any, bool]]) -> list[Evaluation]:
    """Evaluate several (policy, deterministic?) on the same episodes."""
    environments = evaluation_environments(config, source, config.episodes)
    try:
        return [
            evaluate(policy, environments, config.episodes, deterministic=deterministic, seed=config.seed)
            for policy, deterministic in policies
        ]
    finally:
        environments.close()


def _stopped(training: Training, folder: RunFolder, config: TrainConfig, stop: StopRequest, progress: Progress) -> Run:
    progress.message(
        f"{stop.requested}: saved at {training.progress.steps:,} steps in {folder.path}; the same command goes on"
    )
    results = {"last_100_training_return": training.mean_return, "steps": training.progress.steps}
    return Run(folder.path, config, results, stopped=stop.requested)


def _resume(training: Training, folder: RunFolder, metrics: MetricsWriter) -> bool:
    """Load the last whole checkpoint; False when the run ended before its first one."""
    path = latest_checkpoint(folder.checkpoints)
    if path is None:
        metrics.truncate_after(-1)
        return False
    training.load(*load_checkpoint(path))
    metrics.truncate_after(training.progress.steps)
    training.restart()
    return True


def _limit_threads(stack: ExitStack, environments: VectorEnvironment, config: TrainConfig) -> None:
    """One thread for small networks: a second one costs more than it brings, and it takes a core from EnvPool.

    Before the networks are made, since an orthogonal matrix depends on how many threads compute it. On a GPU,
    convolutions keep all digits of float32: with TF32 a log-prob of the rollout and of the update would differ by 1e-3.
    """
    if torch.cuda.is_available():
        stack.callback(setattr, torch.backends.cudnn, "allow_tf32", torch.backends.cudnn.allow_tf32)
        torch.backends.cudnn.allow_tf32 = False
    if config.device != "cuda" and not ObservationSpec.of(environments.observation_space).images:
        stack.callback(torch.set_num_threads, torch.get_num_threads())
        torch.set_num_threads(1)
        stack.enter_context(threadpool_limits(1, user_api="blas"))


def _name_of(maker: Callable[..., Any]) -> str:
    return f"{getattr(maker, '__module__', '?')}:{getattr(maker, '__qualname__', type(maker).__name__)}"
