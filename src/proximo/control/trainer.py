"""A training as an iterator of its metrics: for live plots, for loops of one's own, and for `proximo.train`."""

import statistics
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import fields, replace
from os import PathLike, fspath
from pathlib import Path
from typing import Any

import torch

from proximo.control.config import NetworkSettings, TrainConfig
from proximo.control.distillation.training import training_of
from proximo.control.ending import reason_to_end
from proximo.control.environments import Source, code_of, copies, known_name, make_environments, name_of, task_of
from proximo.control.evaluation.at_the_end import finish
from proximo.control.evaluation.evaluate import Watch
from proximo.control.evaluation.selection import Selection
from proximo.control.loading import LoadedPolicy, require_final
from proximo.control.models.device import limit_threads
from proximo.control.own_parts import Maker, own_code, require_one_size, with_groups, with_own_parts
from proximo.control.presets import configure, usual_preset
from proximo.control.result import Run, default_run
from proximo.control.spaces.observations import ObservationSpec
from proximo.control.training.training import Training
from proximo.core.settings import UpdateSettings
from proximo.errors import UserError
from proximo.foreign_options import CONTROL, answered_in_python
from proximo.runs.config.toml import from_mapping
from proximo.runs.console.progress import Mode, Progress, checked_mode
from proximo.runs.health import TruthMeter
from proximo.runs.session.alone import alone
from proximo.runs.session.callbacks import Callbacks, Given
from proximo.runs.session.opening import Call, Opening, free_folder
from proximo.runs.session.ranks import Followed, NoMetrics, NoProgress, open_together, others_went_on
from proximo.runs.session.recorder import Recorder
from proximo.runs.session.session import Session, resume
from proximo.runs.session.signals import Interrupted, StopRequest
from proximo.runs.session.trainer import IteratedTrainer, say_finished_before
from proximo.runs.storage.code_identity import identity
from proximo.runs.storage.folder import RunFolder
from proximo.runs.storage.metrics import MetricsWriter
from proximo.runs.storage.random_state import OwnStreams
from proximo.runs.system import resident_memory
from proximo.scale.cpus import available_cpus
from proximo.scale.meeting import current_mesh
from proximo.scale.mesh import ALONE


class Trainer(IteratedTrainer[Run]):
    """A training, iterated: `for metrics in Trainer("CartPole-v1", steps=100_000): ...`.

    Each iteration gives its metrics by name, with `step`. Left by `break`, or stopped by Ctrl-C, the run is saved, and
    iterating again resumes it. After the last iteration `run` has the results.

    Args:
        environment: see `proximo.train`, as for all others.
        algorithm: as there.
        preset: as there.
        network: as there.
        encoders: as there.
        callbacks: as there.
        progress: as there.
        stop_at: as there.
        fresh: as there.
        allow_change: as there.
        settings: as there.

    Raises:
        UserError: a setting can not mean anything.
    """

    def __init__(
        self,
        environment: Source,
        algorithm: str | UpdateSettings | type[UpdateSettings] | None = None,
        *,
        preset: str = "",
        network: Maker | NetworkSettings | Mapping[str, Any] | None = None,
        encoders: Mapping[str, Maker] | None = None,
        callbacks: Sequence[Given] = (),
        progress: Mode = "auto",
        stop_at: int | None = None,
        fresh: bool = False,
        allow_change: bool = False,
        **settings: Any,
    ) -> None:
        source = known_name(environment) if isinstance(environment, str) else environment
        settings = with_own_parts(settings, algorithm, network, encoders)
        config = _configured(source, preset or usual_preset(algorithm), settings)
        progress = checked_mode(progress)
        self._plan(config, source, progress, Call(stop_at, fresh, allow_change), Callbacks(callbacks), anew=True)

    @classmethod
    def of(
        cls,
        config: TrainConfig,
        source: Source | None = None,
        mode: Mode = "auto",
        call: Call | None = None,
        callbacks: Sequence[Given] = (),
    ) -> "Trainer":
        """A trainer of settings that are complete; a finished run of other code is refused, and not passed over.

        Args:
            config: complete.
            source: the environment's maker where `config.environment` is only its name.
            mode: how progress is shown.
            call: how this call begins and ends.
            callbacks: called while the run trains.
        """
        trainer = cls.__new__(cls)
        source = config.environment if source is None else source
        trainer._plan(config, source, mode, call or Call(), Callbacks(callbacks), anew=False)
        return trainer

    def _plan(
        self, config: TrainConfig, source: Source, mode: Mode, call: Call, callbacks: Callbacks, *, anew: bool
    ) -> None:
        if copies(source) is not None and config.evaluate_every is not None:
            raise UserError(
                "evaluate_every needs environments beside those that are trained in, and this one is made already: "
                "give a function that makes one"
            )
        self.config = config
        self._source, self._mode, self._call, self._callbacks, self._anew = source, mode, call, callbacks, anew
        self._training: Training | None = None
        self._mesh = ALONE

    config: TrainConfig
    """All settings."""

    @property
    def folder(self) -> Path:
        """The folder of the run."""
        return Path(self.config.run or default_run(self.config))

    @property
    def policy(self) -> LoadedPolicy:
        """The policy as it is now: `trainer.policy.act(observation)`.

        Raises:
            UserError: there is none before the first iteration.
        """
        if self._training is None:
            raise UserError("there is no policy before the first iteration: iterate first, or use proximo.load(run)")
        self._training.note_wrappers()
        return LoadedPolicy(self._training.policy)

    @torch.inference_mode(False)  # each time that it goes on: what is trained is no inference tensor
    def _rows(self) -> Generator[dict[str, Any], None, None]:
        started = time.monotonic()
        self.run = None
        self._mesh = mesh = current_mesh()
        passed_over = ""

        def opened() -> Opening:
            nonlocal passed_over
            found, passed_over = self._opened()
            return found

        opening = open_together(mesh, self.config, opened)
        self.config = replace(self.config, run=str(opening.folder.path))
        config, folder = self.config, opening.folder
        if finished := opening.results:
            if mesh.first:
                require_final(folder)
            self.run = Run(folder.path, config, finished, finished_before=True)
            if self._anew and mesh.first:
                say_finished_before(folder.path, self._mode)
            return
        with ExitStack() as stack:
            with mesh.together():
                stack.enter_context(alone(f"{config.environment} in {config.run}"))
            streams = stack.enter_context(OwnStreams(config.seed, mesh.rank))
            with mesh.together():
                training = self._make(stack)
                selection = stack.enter_context(closing(Selection(config, self._source, folder)))
                stack.enter_context(opening.open())
                self.config = config = replace(config, run=str(folder.path))  # an environment may have changed folders
                self._call = replace(self._call, fresh=False)  # or iterating again would delete this run
                metrics = stack.enter_context(MetricsWriter(folder.path) if mesh.first else NoMetrics())
            resumed = opening.resumed and resume(training, folder, metrics, self._callbacks, mesh)
            started -= metrics.seconds  # those of earlier calls
            title = f"{config.environment} · {config.preset} · seed {config.seed} · {training.environments.backend}"
            mode: Mode = self._mode if mesh.first else "quiet"
            if not mesh.alone:
                title += f" · {mesh.size} ranks"
            shown = Progress if mesh.first else NoProgress
            progress = stack.enter_context(
                shown(title, config.steps, mode=mode, folder=folder.path, start=training.progress.steps)
            )
            self._tell(training, progress, passed_over, resumed=resumed)
            if resumed:
                _bring_back(training, progress, opening)
            else:
                training.start()
                if self.config.start_from:
                    parts = ", ".join(self.config.start_with)
                    progress.message(f"starts from {self.config.start_from}: {parts}")
                if training.warm:
                    progress.warning(training.warm)
            moved = folder.go_back()  # by an environment as it begins
            if changed := opening.settle(f"{training.progress.steps:,} steps"):
                progress.message(changed)
            stop = stack.enter_context(StopRequest())
            recorder = Recorder(metrics, progress, TruthMeter(self.config.environments, self.config.steps))
            session = Session(
                training, folder, recorder, stop, self._call.stop_at, self._callbacks, self, mesh, streams, moved
            )
            self._training, self._session = training, session
            stack.callback(setattr, self, "_session", None)
            selection.watch = _watch(session)
            stack.callback(self._callbacks.close)
            with mesh.led(), session.calling():
                if mesh.first:
                    self._callbacks.start(self)
            stopped, ended = yield from self._iterate(training, session, selection)
            results = None if stopped else finish(training, session, selection, self._source, started, ended)
            if results is None:
                session.agree()  # where the evaluation at the end was left, by whoever was asked to
                self.run = _stopped(training, folder, config, stopped or str(session.asked), progress)
                return
            self.run = Run(folder.path, config, results)
            with mesh.led(), session.calling():
                if mesh.first:
                    self._callbacks.finish(self, results)

    def _opened(self) -> tuple[Opening, str]:
        """The folder, compared with what is asked for; and a sentence about one that was passed over."""
        folder, passed_over = RunFolder(self.folder), ""
        code = identity({name_of(self._source): code_of(self._source), **own_code(self.config)})
        if self._anew and not self._call.fresh:
            folder, passed_over = free_folder(folder, code)
        self.config = replace(self.config, run=str(folder.path))
        opening = Opening(folder, self.config, "environment", self._call)
        if late := [key for key, *_ in opening.changes if key.split(".")[0] in ("start_from", "start_with")]:
            raise UserError(
                f"{folder.path} has begun already, and {late[0]} is read where a run begins: choose another folder "
                "with --run (run=...), or start over with --fresh (fresh=True)"
            )
        opening.check_code(code)
        return opening, passed_over

    def _make(self, stack: ExitStack) -> Training:
        """The training in its environments, which are made before the folder: one that fails leaves nothing behind."""
        config = self.config
        share = self._mesh.share(config.environments)
        threads: int | None = None
        if not self._mesh.alone:
            _require_copies(self._source, config, self._mesh.size)
            threads = max(1, available_cpus() // self._mesh.local_size)
        environments = make_environments(
            self._source,
            share.stop - share.start,
            threads=threads,
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
        stack.callback(environments.close)
        images = bool(ObservationSpec.of(environments.observation_space).images)
        found = limit_threads(stack, config.device, images=images)
        return training_of(config, environments, mesh=self._mesh, threads=min(found, threads or found))

    def _tell(self, training: Training, progress: Progress, passed_over: str, *, resumed: bool) -> None:
        """Say what is to be known before the first iteration."""
        if passed_over:
            progress.warning(passed_over)
        progress.message(f"device {training.device.type}: {training.why_device}")
        if training.device.type == "cuda":
            progress.message(f"CUDA graphs: {f'off, {training.graphs.off}' if training.graphs.off else 'on'}")
        if not resumed and (rounded := _rounded(training)):
            progress.warning(rounded)
        for text in (*self.config.idle, *_idle_noise(self.config, training)):
            progress.warning(text)
        for note in training.environments.notes:
            progress.message(note)
        if copies(self._source) == 1:
            progress.message(
                f"an environment that is made already is stepped alone, {self.config.rollout_size:,} steps in each "
                "iteration: give a function that makes one, as `lambda: MyEnv()`, for more copies"
            )

    def _iterate(
        self, training: Training, session: Session, selection: Selection
    ) -> Generator[dict[str, Any], None, tuple[str | None, str | None]]:
        """Iterate to the last step.

        Returns:
            What asked to stop before, or None; and the callback that ended the training, or None.
        """
        config, told, unrecorded = training.config, -1, ""
        # At least once: the rollout that the normalisers start from counts, and may be all there is of a short run.
        while training.progress.steps < config.steps or not training.progress.iterations:
            before = training.progress.steps
            session.agree()
            if ended := _reason_to_end(training, session):
                return None, ended
            _select(training, session, selection)
            if session.stopped or (values := session.iterate()) is None:
                session.save()
                return session.stopped, None
            if training.graphs.failed != unrecorded:
                unrecorded = training.graphs.failed
                session.recorder.progress.message(f"CUDA graphs: not of all, {unrecorded}")
            steps = training.progress.steps
            row, ended = session.record({**values, **_of_the_run(training, evaluated=before)}, training.own_statistics)
            if session.due(before) and steps < config.steps:
                # Environments that can not give their state start anew here, in every run, resumed or not, so that both
                # are the same run and none has far to be brought back.
                if cut := training.reset_point():
                    progress, (said, most) = session.recorder.progress, cut
                    if most > told:  # once, and once more if it becomes serious
                        (progress.warning if most else progress.message)(said)
                        told = int(most)
                session.save()
            yield from session.given(row)
            if ended:
                return None, ended
        session.agree()
        if session.asked:  # what is left, an evaluation, may take longer than a scheduler waits
            session.save()
        return session.asked, None


def _reason_to_end(training: Training, session: Session) -> str | None:
    """The setting by which a run that has begun ends here."""
    config, seconds = training.config, session.recorder.metrics.seconds
    if not training.progress.iterations:
        return None
    if config.max_minutes is not None:  # by the clock of the first rank, or not all would end
        seconds = float(training.mesh.gather(torch.tensor([seconds], dtype=torch.float64))[0, 0])
    return reason_to_end(config.until, config.max_minutes, training.recent.returns, seconds)


def _of_the_run(training: Training, *, evaluated: int) -> dict[str, Any]:
    """Metrics of the run so far, beside those of its last iteration, which began at step `evaluated`."""
    progress, values = training.progress, dict[str, Any]()
    if progress.evaluated == evaluated > 0:
        values["evaluation_return"] = progress.evaluation_return
    values |= {
        "return": training.recent.mean_return,
        "task_return": training.recent.mean_task_return,
        "episodes": progress.episodes,
        "episodes_cut": progress.cut,
        "memory_mb": resident_memory(),
    }
    if training.recent.lengths:
        values["episode_length"] = sum(training.recent.lengths) / len(training.recent.lengths)
        values["episode_length_std"] = statistics.pstdev(training.recent.lengths)
    return values


def _configured(environment: Source, preset: str, settings: dict[str, Any]) -> TrainConfig:
    """All settings: the preset's for this environment, then those that were given.

    Raises:
        UserError: there is no such preset, or a setting that there is not, or that can not mean anything.
    """
    if answer := answered_in_python(settings, CONTROL, [field.name for field in fields(TrainConfig)]):
        raise UserError(answer)
    settings = with_groups(settings)
    count = copies(environment)
    size: dict[str, int] = {name: settings[name] for name in ("environments", "rollout_length") if name in settings}
    if count is not None:
        size.setdefault("environments", count)
    base, found = configure(task_of(environment), preset, size)
    base = replace(base, environment=name_of(environment))
    require_one_size(settings.get("minibatches"), settings.get("update"))
    if "minibatches" not in found.settings:  # else the preset says how it is cut, whatever its size
        base = _for_copies(base, count, settings)
    for name in ("run", "start_from"):
        if isinstance(settings.get(name), PathLike):
            settings[name] = fspath(settings[name])
    if isinstance(settings.get("options"), Mapping):
        settings["options"] = {**base.options, **settings["options"]}
    return from_mapping(TrainConfig, settings, where="the arguments of proximo.train", base=base)


def _idle_noise(config: TrainConfig, training: Training) -> list[str]:
    """A sentence on settings of continuous actions, where the task has none."""
    plain, own = NetworkSettings(), config.network
    given = [name for name in ("actions", "noise", "log_std") if getattr(own, name) != getattr(plain, name)]
    if not given or training.policy.actions.continuous:
        return []
    names = " and ".join(f"network.{name}" for name in given)
    return [f"{names} can do nothing in {config.environment}, whose actions are choices: leave this out"]


def _for_copies(base: TrainConfig, count: int | None, settings: Mapping[str, Any]) -> TrainConfig:
    """The preset for an environment that is made already: its copies, and a rollout of the same size."""
    if count is None or "environments" in settings:
        return base
    length = base.rollout_length if "rollout_length" in settings else max(1, base.rollout_size // count)
    return replace(base, environments=count, rollout_length=length)


def _select(training: Training, session: Session, selection: Selection) -> None:
    """Evaluate the policy if it is time to; given up, and done when the run goes on, for a stop that can not wait."""
    if selection.due(training) and not session.stopped:
        with suppress(Interrupted):
            selection.look(training)
        session.agree()  # whoever was asked to stop meanwhile stops here, with all others


def _watch(session: Session) -> Watch:
    """An evaluation is left at once by who asks to stop, for the same command does it again."""
    return Watch(session.recorder.progress.message, lambda: session.stop.requested is not None)


def _stopped(training: Training, folder: RunFolder, config: TrainConfig, stopped: str, progress: Progress) -> Run:
    progress.message(f"{stopped}: saved at {training.done:,} steps in {folder.path}; the same command resumes")
    results = {"last_100_training_return": training.recent.mean_return, "steps": training.done}
    return Run(folder.path, config, results, stopped=stopped)


def _require_copies(source: Source, config: TrainConfig, ranks: int) -> None:
    """Refuse what several ranks can not share out.

    Raises:
        UserError: it is said.
    """
    if copies(source) is not None:
        raise UserError(
            f"{ranks} ranks need environments of their own, and this one is made already: give a function that makes "
            "one"
        )
    if config.environments < ranks:
        raise UserError(
            f"{ranks} ranks can not share environments = {config.environments}: each steps its own, so raise "
            f"environments to {ranks} at least, or take fewer ranks"
        )


def _bring_back(training: Training, progress: Progress, opening: Opening | Followed) -> None:
    """The environments as they were at the checkpoint, or a word about why it is another run from here."""
    if training.reshared:
        said = others_went_on(training.mesh.size)
        opening.note(f"resume not exact at {training.progress.steps:,} steps: {said}")
        progress.warning(f"{said}: each draws anew in environments that start anew, so this is no longer the same run")
    elif training.log.steps:
        progress.message(f"{training.log.steps:,} steps are taken again to bring the environments back")
    if differing := training.bring_back():
        differs = f"the environments did not come back to where they were ({', '.join(differing)} differs)"
        opening.note(f"resume not exact at {training.progress.steps:,} steps: {differs}")
        progress.warning(
            f"{differs}: they do not follow from their seeds and actions alone, so they were restarted, and this is no "
            "longer the same run"
        )


def _rounded(training: Training) -> str | None:
    """How far beyond its steps a run will go by a tenth of them or more; None where it does not."""
    config, size = training.config, training.config.rollout_size
    # At least one iteration, after the rollout that the normalisers start from.
    rollouts = max(-(-config.steps // size), 1 + training.looks_first)
    if 10 * rollouts * size < 11 * config.steps:  # in whole numbers, however long
        return None
    return (
        f"about {rollouts * size:,} steps will be taken instead of {config.steps:,}, since an iteration has {size:,} "
        f"(environments {config.environments} x rollout_length {config.rollout_length}): lower these two for fewer"
    )
