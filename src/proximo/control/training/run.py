"""Training from start to result: folder, resume, progress, signals, checkpoints, evaluation."""

import json
import statistics
import time
from collections.abc import Mapping
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from proximo.control.config import TrainConfig
from proximo.control.environments import Source, code_of, copies, known_name, make_environments, name_of, task_of
from proximo.control.evaluation.evaluate import LONGEST, Watch, evaluate_all, evaluation_environments, longest_episode
from proximo.control.evaluation.selection import BY_TRAINING, Selection
from proximo.control.loading import policy_from, require_final
from proximo.control.models.device import limit_threads
from proximo.control.presets import configure
from proximo.control.spaces.observations import ObservationSpec
from proximo.control.training.training import Training
from proximo.errors import UserError
from proximo.runs.config.toml import from_mapping
from proximo.runs.console.progress import Mode, Progress
from proximo.runs.session.alone import alone
from proximo.runs.session.opening import Call, Opening, free_folder
from proximo.runs.session.recorder import Recorder
from proximo.runs.session.session import Session, resume
from proximo.runs.session.signals import Interrupted, StopRequest
from proximo.runs.storage.checkpoint import save_checkpoint
from proximo.runs.storage.code_identity import identity
from proximo.runs.storage.files import write_atomically
from proximo.runs.storage.folder import RunFolder
from proximo.runs.storage.metrics import MetricsWriter
from proximo.runs.system import resident_memory


@dataclass(frozen=True)
class Run:
    """What a training run came to."""

    path: Path
    config: TrainConfig
    results: Mapping[str, Any]
    """`last_100_training_return`, `final_deterministic`, `final_sampled`, `best_checkpoint`, `steps`, `seconds`,
    `exact_resume` (False if environments once did not come back where the run went on)... Where wrappers change the
    reward, also each of the returns as the task itself pays it, with `_task` after its name; else these are None."""
    stopped: str | None = None
    """What ended it early, a signal's name or `stop-at`; the same command goes on."""
    finished_before: bool = False
    """Whether an earlier call finished it, and this one has only read what it came to."""


def train(
    environment: Source,
    *,
    preset: str = "tuned",
    progress: Mode = "auto",
    stop_at: int | None = None,
    fresh: bool = False,
    allow_change: bool = False,
    **settings: Any,
) -> Run:
    """Train a policy.

    Args:
        environment: a task of EnvPool or Gymnasium, `module:function`, a callable that makes an environment, or an
            environment, which is trained in alone (a rollout is then as much longer) and left open.
        preset: tuned, paper, or the path of a TOML file.
        progress: live, plain, quiet, or auto.
        stop_at: end early, with a checkpoint, once this many environment steps are done.
        fresh: delete the run that is in the folder and start over.
        allow_change: go on with settings that differ from the folder's.
        settings: fields of `TrainConfig` (`steps=100_000`, `seed=0`, `run="runs/mine"`, `update={"clip": 0.1}`);
            `options` adds to or overrides those of the preset.

    Returns:
        The run: its folder and its results.

    Raises:
        UserError: something you can mend; the message says what, where and how.
    """
    environment = known_name(environment) if isinstance(environment, str) else environment
    base, _ = configure(task_of(environment), preset)
    base = _for_copies(replace(base, environment=name_of(environment)), copies(environment), settings)
    if isinstance(settings.get("run"), Path):
        settings["run"] = str(settings["run"])
    if isinstance(settings.get("options"), Mapping):
        settings["options"] = {**base.options, **settings["options"]}
    config = from_mapping(TrainConfig, settings, where="the arguments of proximo.train", base=base)
    return run_training(config, environment, progress, Call(stop_at, fresh, allow_change), anew=True)


def run_training(
    config: TrainConfig,
    source: Source | None = None,
    mode: Mode = "auto",
    call: Call | None = None,
    *,
    anew: bool = False,
) -> Run:
    """Train as `config` says: start, or go on where the folder's last checkpoint is.

    Args:
        config: complete.
        source: the environment's maker where `config.environment` is only its name.
        mode: how progress is shown.
        call: how this call begins and ends.
        anew: whether a finished run of other code is passed over for the next free folder, instead of refused.

    Raises:
        UserError: something the user can mend.
    """
    started = time.monotonic()
    source, call = config.environment if source is None else source, call or Call()
    if copies(source) is not None and config.evaluate_every is not None:
        raise UserError(
            "evaluate_every needs environments beside those that are trained in, and this one is made already: give a "
            "function that makes one"
        )
    folder, passed_over = RunFolder(config.run or default_run(config)), ""
    code = identity({name_of(source): code_of(source)})
    if anew and not call.fresh:
        folder, passed_over = free_folder(folder, code)
    config = replace(config, run=str(folder.path))
    opening = Opening(folder, config, "environment", call)
    opening.check_code(code)
    if finished := opening.results:
        require_final(folder)
        return Run(folder.path, config, finished, finished_before=True)
    with ExitStack() as stack:
        stack.enter_context(alone(f"{config.environment} in {folder.path}"))
        # Made before the folder: an environment that can not be made leaves nothing behind.
        environments = make_environments(
            source,
            config.environments,
            backend=config.backend,
            options=config.options,
            timeout=config.environment_timeout,
            frame_stack=config.frame_stack,
            mask_key=config.mask_key,
            observation_keys=config.observation_keys,
        )
        stack.callback(environments.close)
        images = bool(ObservationSpec.of(environments.observation_space).images)
        limit_threads(stack, config.device, images=images)
        training = Training(config, environments)
        selection = stack.enter_context(closing(Selection(config, source, folder)))
        stack.enter_context(opening.open())
        metrics = stack.enter_context(MetricsWriter(folder.path))
        resumed = opening.resumed and resume(training, folder, metrics)
        started -= metrics.seconds  # those of earlier calls
        title = f"{config.environment} · {config.preset} · seed {config.seed} · {environments.backend}"
        progress = stack.enter_context(
            Progress(title, config.steps, mode=mode, folder=folder.path, start=training.progress.steps)
        )
        if passed_over:
            progress.warning(passed_over)
        progress.message(f"device {training.device.type}: {training.why_device}")
        if not resumed and (rounded := _rounded(training)):
            progress.warning(rounded)
        for note in environments.notes:
            progress.message(note)
        if copies(source) is not None:
            progress.message(
                f"an environment that is made already is stepped alone, {config.rollout_size:,} steps in each "
                "iteration: give a function that makes one, as `lambda: MyEnv()`, for more copies"
            )
        if resumed:
            _bring_back(training, progress, opening)
        else:
            training.start()
        if changed := opening.settle(f"{training.progress.steps:,} steps"):
            progress.message(changed)
        with StopRequest() as stop:
            session = Session(training, folder, Recorder(metrics, progress), stop, call.stop_at)
            selection.watch = _watch(session)
            stopped = _iterate(training, session, selection)
            results = None if stopped else _finish(training, session, selection, source, started)
        if results is None:
            return _stopped(training, folder, config, stopped or str(stop.requested), progress)
    return Run(folder.path, config, results)


def default_run(config: TrainConfig) -> str:
    """`runs/ENVIRONMENT-PRESET-SEED`."""
    parts = (config.environment, Path(config.preset).stem, config.seed)
    return "runs/" + "-".join(str(part).replace("/", "_").replace(":", "_") for part in parts)


def _iterate(training: Training, session: Session, selection: Selection) -> str | None:
    """Iterate to the last step; what asked to stop before, or None."""
    config, told = training.config, -1
    # At least once: the rollout that the normalisers start from counts, and may be all there is of a short run.
    while training.progress.steps < config.steps or not training.progress.iterations:
        before = training.progress.steps
        _select(training, session, selection)
        if session.stopped or (values := session.iterate()) is None:
            session.save()
            return session.stopped
        steps = training.progress.steps
        if training.progress.evaluated == before > 0:
            values["evaluation_return"] = training.progress.evaluation_return
        values |= {
            "return": training.mean_return,
            "task_return": training.mean_task_return,
            "episodes": training.progress.episodes,
            "episodes_cut": training.progress.cut,
            "memory_mb": resident_memory(),
        }
        if training.lengths:
            values["episode_length"] = sum(training.lengths) / len(training.lengths)
            values["episode_length_std"] = statistics.pstdev(training.lengths)
        session.recorder.iteration(steps, values)
        if session.due(before) and steps < config.steps:
            # Environments that can not give their state start anew here, in every run, resumed or not, so that both
            # are the same run and none has far to be brought back.
            if cut := training.reset_point():
                progress, (said, most) = session.recorder.progress, cut
                if most > told:  # once, and once more if it becomes serious
                    (progress.warning if most else progress.message)(said)
                    told = int(most)
            session.save()
    if session.stop.requested:  # what is left, an evaluation, may take longer than a scheduler waits
        session.save()
    return session.stop.requested


def _select(training: Training, session: Session, selection: Selection) -> None:
    """Evaluate the policy if it is time to; given up, and done when the run goes on, for a stop that can not wait."""
    if selection.due(training) and not session.stopped:
        with suppress(Interrupted):
            selection.look(training)


def _watch(session: Session) -> Watch:
    """An evaluation is left at once by who asks to stop, for the same command does it again."""
    return Watch(session.recorder.progress.message, lambda: session.stop.requested is not None)


def _finish(
    training: Training, session: Session, selection: Selection, source: Source, started: float
) -> dict[str, Any] | None:
    """Save the last and the best policy, evaluate both, and write the results.

    The numbered checkpoint is what the same command goes on from if the evaluation is interrupted.

    Returns:
        The results; None if a signal asked to stop and the evaluation did not end in time.
    """
    config, folder = training.config, session.folder
    session.save()
    tensors, state = training.state()
    # What the environments did is for a run that goes on; the policy is for those who use it.
    lasting = {name: x for name, x in tensors.items() if not name.startswith("environments/")}
    save_checkpoint(folder.checkpoints, "final", lasting, state)
    seconds = time.monotonic() - started
    try:
        if selection.due(training):
            selection.look(training)
        selection.save(training)
        evaluations = _evaluate_both(training, source, selection)
    except Interrupted:
        return None
    except UserError:
        if session.stop.requested is None:
            raise
        return None  # schedulers send their signal to the environments' processes too
    results = {
        "last_100_training_return": training.mean_return,
        "last_100_training_return_task": training.mean_task_return,
        **evaluations,
        "best_chosen_by": selection.criterion,
        "episodes": config.episodes,
        "steps": training.progress.steps,
        "seconds": seconds,
        "steps_per_second": training.progress.steps / seconds,
        "exact_resume": training.progress.exact_resume,
    }
    write_atomically(folder.results, json.dumps(results, indent=1).encode())
    return results


def _evaluate_both(training: Training, source: Source, selection: Selection) -> dict[str, Any]:
    """The last policy, deterministic and sampled, and the best one; where only returns of training chose that, the last
    one takes its place if it is better here.

    Raises:
        Interrupted: by who may interrupt `training`, or by the watch of `selection`.
    """
    watch = selection.watch
    config, progress = training.config, training.progress
    limit = longest_episode(config, progress.episodes, progress.steps)
    if limit < LONGEST:
        why = "" if config.episode_limit is not None else ", for none has ended in training (episode_limit sets it)"
        watch.tell(f"an episode of the evaluations is cut after {limit:,} steps{why}")
    last, best = training.policy, policy_from(*training.state(), "best")
    policies = {
        "the last policy": (last, True),
        "the last policy, sampled": (last, False),
        "the best one": (best, True),
    }
    # Made outside of what may be interrupted: processes that are forked within would be interrupted too.
    environments = evaluation_environments(config, source, config.episodes)
    try:
        with training.interruptible():
            seen = evaluate_all(policies, environments, config.episodes, seed=config.seed, limit=limit, watch=watch)
    finally:
        environments.close()
    final, sampled, chosen = seen.values()
    if selection.criterion == BY_TRAINING and final.mean > chosen.mean:
        selection.prefer_last(training, final.mean)
        chosen = final
    return {
        "final_deterministic": final.mean,
        "final_deterministic_std": final.std,
        "final_deterministic_task": final.task_mean,
        "final_sampled": sampled.mean,
        "final_sampled_std": sampled.std,
        "final_sampled_task": sampled.task_mean,
        "best_checkpoint": chosen.mean,
        "best_checkpoint_std": chosen.std,
        "best_checkpoint_task": chosen.task_mean,
        "unfinished_episodes": final.unfinished,
        "episode_limit": limit,
    }


def _stopped(training: Training, folder: RunFolder, config: TrainConfig, stopped: str, progress: Progress) -> Run:
    progress.message(f"{stopped}: saved at {training.done:,} steps in {folder.path}; the same command goes on")
    results = {"last_100_training_return": training.mean_return, "steps": training.done}
    return Run(folder.path, config, results, stopped=stopped)


def _bring_back(training: Training, progress: Progress, opening: Opening) -> None:
    """The environments as they were at the checkpoint, or a word about why it is another run from here."""
    if training.log.steps:
        progress.message(f"{training.log.steps:,} steps are taken again to bring the environments back")
    if differing := training.bring_back():
        differs = f"the environments did not come back to where they were ({', '.join(differing)} differs)"
        opening.note(f"resume not exact at {training.progress.steps:,} steps: {differs}")
        progress.warning(
            f"{differs}, for they do not follow from their seeds and actions alone: they start anew, and it is another "
            "run from here"
        )


def _rounded(training: Training) -> str | None:
    """How far beyond its steps a run will go by a tenth of them or more; None where it does not."""
    config, size = training.config, training.config.rollout_size
    # At least one iteration, after the rollout that the normalisers start from.
    rollouts = max(-(-config.steps // size), 1 + training.normalizes)
    if 10 * rollouts * size < 11 * config.steps:  # in whole numbers, however long
        return None
    return (
        f"about {rollouts * size:,} steps will be taken instead of {config.steps:,}, since an iteration has {size:,} "
        f"(environments {config.environments} x rollout_length {config.rollout_length}): lower these two for fewer"
    )


def _for_copies(base: TrainConfig, count: int | None, settings: Mapping[str, Any]) -> TrainConfig:
    """The preset for an environment that is made already: its copies, and a rollout of the same size."""
    if count is None or "environments" in settings:
        return base
    length = base.rollout_length if "rollout_length" in settings else max(1, base.rollout_size // count)
    return replace(base, environments=count, rollout_length=length)
